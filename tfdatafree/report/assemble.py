"""The report of a compression, from what its stages found."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfdatafree.export.build import Built
from tfdatafree.export.run import predict_as_written
from tfdatafree.inputs.input_range import InputRange
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.pruning.channels import Smaller
from tfdatafree.pruning.prune import Pruned
from tfdatafree.quantization.bit_choice import Policy
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.report.evidence import Evidence
from tfdatafree.report.outputs import compare_outputs
from tfdatafree.report.report import LayerRow, Pruning, Report
from tfdatafree.targets.check import check_target
from tfdatafree.targets.registry import GENERIC
from tfdatafree.targets.target import Target
from tfdatafree.targets.vela import ask_vela, vela_is_installed
from tfdatafree.tflite.sizes import gzip_bytes, kernel_zeros

_PRUNED_FROM = "procedural images and BatchNorm statistics; no data"

# Generated inputs on which the result is compared with the user's model.
COMPARED_OUTPUTS = 32


def _float_bytes(graph: Graph) -> int:
    """Bytes of the model's weights in float32."""
    return sum(4 * values.size for layer in graph.layers.values() for values in layer.weights)


def measured_on(
    source: Graph,
    content: bytes | None,
    graph: Graph,
    grids: Mapping[str, Quantizer],
    inputs: list[np.ndarray],
) -> dict[str, Any]:
    """Fields of the report that compare the result with the user's model, on generated inputs."""
    weights = (values.astype(np.float32) for layer in source.layers.values() for values in layer.weights)
    packed = {"float_gzip_bytes": gzip_bytes(values.tobytes() for values in weights)}
    return packed | compared_on(source, content, graph, grids, inputs)


def compared_on(
    reference: Graph,
    content: bytes | None,
    graph: Graph,
    grids: Mapping[str, Quantizer],
    inputs: list[np.ndarray],
) -> dict[str, Any]:
    """The same without what is the reference's alone."""
    some = [array[:COMPARED_OUTPUTS] for array in inputs]
    wanted, found = reference.run_in_batches(some), predict_as_written(content, graph, grids, some)
    return {
        "outputs": compare_outputs(reference.output_names, wanted, found),
        "compared": len(some[0]),
        "gzip_bytes": gzip_bytes([content]) if content else 0,
    }


def targeted_on(content: bytes | None, target: Target) -> dict[str, Any]:
    """Fields of the report about the target; the device's own compiler decides where it is installed.

    Raises:
        ExportError: The target can do nothing with the file.
    """
    if content is None or target is GENERIC:
        return {}
    check = check_target(content, target)
    if target.accelerator is None or not vela_is_installed():
        return {"on_target": check}
    check, compiled = ask_vela(check, content, target.accelerator)
    return {"on_target": check, "npu_bytes": None if compiled is None else compiled.bytes}


def report_of(
    source: Graph,
    recipe: Recipe,
    found: InputRange,
    generated: str,
    content: bytes | None,
    *,
    kept: dict[str, str],
    notes: dict[str, str],
    pruning: Pruning | None,
    call: Mapping[str, Any],
    measured: Mapping[str, Any],
    seconds: float,
    integers: tuple[Built, Evidence] | None = None,
    policy: Policy | None = None,
) -> Report:
    """The report of one compression.

    Args:
        source: The user's model.
        recipe: As it was carried out.
        generated: What the layers were exercised with.
        content: The file, if one was written.
        measured: Further fields: `measured_on`, `targeted_on`.
        integers: What was built, and what speaks for it; None for a float file.
    """
    fields: dict[str, Any] = {"integer_only": False, "requantized": 0, "kept": kept}
    if integers is not None:
        built, evidence = integers
        fields = _of_integers(built, evidence) | {
            "simulated": recipe.quantize.simulated,
            "kept": kept | built.kept_float,
        }
    return Report(
        model=source.name,
        recipe=recipe.name,
        input_range=f"[{found.low:g}, {found.high:g}], {found.origin}",
        generated=generated,
        float_bytes=_float_bytes(source),
        bytes=len(content or b""),
        zeros=kernel_zeros(content) if content else None,
        seconds=seconds,
        notes=notes,
        pruning=pruning,
        policy=policy,
        call=dict(call),
        **fields,
        **measured,
    )


def rewritten_report(
    report: Report, built: Built, evidence: Evidence, *, measured: Mapping[str, Any], note: str, seconds: float
) -> Report:
    """The report of the same compression after other weights were written.

    Args:
        measured: `compared_on`, `targeted_on`.
        note: What was done to the weights.
        seconds: How much longer it took.
    """
    return dataclasses.replace(
        report,
        bytes=len(built.content or b""),
        zeros=kernel_zeros(built.content) if built.content else None,
        seconds=report.seconds + seconds,
        notes={**report.notes, **built.notes, "feature regression": note},
        call={**report.call, "recovered": True},
        **_of_integers(built, evidence),
        **measured,
    )


def _of_integers(built: Built, evidence: Evidence) -> dict[str, Any]:
    """Fields of the report that say what is in an integer file."""
    return {
        "integer_only": not built.kept_float,
        "requantized": built.requantized,
        "layers": tuple(_rows(built, evidence)),
    }


def float_source(recipe: Recipe) -> str:
    """What a float file is made from."""
    return "the weights alone; no data" if recipe.prune is None else _PRUNED_FROM


def pruning_of(pruned: Pruned, smaller: Smaller | None) -> Pruning | None:
    if smaller is not None:
        return Pruning(method="channel", sparsity=smaller.sparsity, layers=smaller.layers, discrepancies={})
    if not pruned.masks:
        return None
    return Pruning(
        method=pruned.method,
        sparsity=pruned.sparsity,
        layers=pruned.by_layer,
        discrepancies=pruned.discrepancies,
    )


def _rows(built: Built, evidence: Evidence) -> Iterable[LayerRow]:
    """One row per tensor of the file, in execution order; fused layers share a row."""
    graph, pending = built.graph, []
    rows_behind: dict[str, tuple[str, ...]] = {tensor: (tensor,) for tensor in graph.inputs if tensor in built.grids}
    for tensor in graph.inputs:
        if tensor in built.grids:
            yield _row(built, evidence, tensor, "input", None, ())
    for node in graph.nodes:
        pending.append(node)
        reads = tuple(dict.fromkeys(row for tensor in node.inputs for row in rows_behind.get(tensor, ())))
        rows_behind |= {tensor: (tensor,) if tensor in built.grids else reads for tensor in node.outputs}
        if node.output not in built.grids:
            continue
        classes = " + ".join(_label(graph, part) for part in pending)
        weighted = next((part.layer for part in pending if part.layer in built.kernels), None)
        yield _row(built, evidence, node.output, classes, weighted, reads)
        pending = []


def _label(graph: Graph, node) -> str:
    layer = graph.layer_of(node)
    activation = getattr(layer.operation, "activation", None)
    return (
        activation.__name__
        if layer.class_name == "Activation" and hasattr(activation, "__name__")
        else layer.class_name
    )


def _row(
    built: Built, evidence: Evidence, tensor: str, operation: str, layer: str | None, reads: tuple[str, ...]
) -> LayerRow:
    grid, check = built.grids[tensor], built.checks[tensor]
    kernel, written, seen = built.kernels.get(layer), evidence.kernels.get(layer), evidence.values.get(tensor)
    return LayerRow(
        name=tensor,
        operation=operation,
        weight_bits=None if kernel is None else kernel.bits,
        weight_scales=None if kernel is None else int(np.size(kernel.scale)),
        activation_bits=grid.bits,
        low=float(grid.low),
        high=float(grid.high),
        sqnr_db=check.sqnr_db,
        lsb=check.lsb,
        layer=layer,
        reads=reads,
        shape=tuple(built.graph.specs[tensor].shape[1:]),
        weights=None if written is None else written.size,
        sparsity=None if written is None else written.sparsity,
        weight_steps=None if written is None else written.steps,
        seen=None if seen is None else (seen.low, seen.high),
        clipped=None if seen is None else seen.clipped,
    )
