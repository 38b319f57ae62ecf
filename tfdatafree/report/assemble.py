"""Makes the report of a compression from the results of its steps."""

import dataclasses
import importlib.metadata
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import scipy
import tensorflow as tf

from tfdatafree.export.build import Built
from tfdatafree.export.run import predict_as_written
from tfdatafree.inputs.given import Inputs
from tfdatafree.inputs.matched import MISSED
from tfdatafree.measuring.confidence import BOUND, DATA, GENERATED, normalized_tensors, what_tells
from tfdatafree.model.cost import multiplications_of
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRange, Network
from tfdatafree.quantization.bit_choice import Policy
from tfdatafree.quantization.split_outputs import decoding
from tfdatafree.quantization.uneven import UNEVEN
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.report.evidence import Evidence
from tfdatafree.report.expected import Draw, chooses, count, estimate, inputs_to_estimate, scores_as_written
from tfdatafree.report.layer_row import LayerRow
from tfdatafree.report.outputs import OutputComparison, compare_outputs, output_forms
from tfdatafree.report.report import Report
from tfdatafree.targets.check import check_target
from tfdatafree.targets.compiler import ask_compiler
from tfdatafree.targets.registry import GENERIC
from tfdatafree.targets.target import Target
from tfdatafree.targets.vela import NpuSizes
from tfdatafree.tflite.sizes import gzip_bytes, kernel_zeros
from tfdatafree.version import __version__

_PRUNED_FROM = "procedural images and BatchNorm statistics; no data"

# Number of generated inputs on which the result is compared with the user's model.
COMPARED_OUTPUTS = 32

# Channels with less noise than this do not suffer from the grid that they share.
_NOISY_DB = 20.0


def make_report(
    network: Network,
    built: Built,
    evidence: Evidence,
    inputs: Inputs,
    *,
    recipe: Recipe,
    target: Target,
    notes: Mapping[str, str],
    policy: Policy | None = None,
) -> Report:
    """The report of one compression. The caller adds the arguments of the call and the duration.

    Args:
        inputs: The inputs that layers were run on.
        recipe: The recipe with the options that the target decided.
        notes: Layer or tensor -> what a user should know, besides the notes of network and file.
        policy: What a search for bits found.

    Raises:
        ExportError: The target cannot use the file.
    """
    source = network.source
    quantized = recipe.quantize is not None
    known = _known_by(network, built, inputs)
    weights = [values.astype(np.float32, copy=False) for layer in source.layers.values() for values in layer.weights]
    with ThreadPoolExecutor(1) as thread:  # packing takes one core, and the networks do not always take both
        packed = thread.submit(gzip_bytes, (values.tobytes() for values in weights))
        compared = _compared(source, built, inputs.arrays, _to_estimate(network, inputs), real=inputs.measured)
    return Report(
        model=source.name,
        recipe=recipe.name,
        simulated=None if recipe.quantize is None else recipe.quantize.simulated,
        input_range=_input_ranges(network, inputs),
        input_fit=None if inputs.real else network.mismatch,
        input_warning=_input_warning(network, inputs),
        generated=inputs.described if quantized else _float_source(recipe),
        float_bytes=sum(values.nbytes for values in weights),
        float_gzip_bytes=packed.result(),
        seconds=0.0,
        kept={**network.reasons, **built.float_reasons},
        notes={**network.notes, **built.notes, **notes, **(_doubt(known) if quantized else {})},
        pruning=network.pruning,
        policy=policy,
        decoding={} if built.tail is None else decoding(built.graph, built.tail),
        uneven=tuple(_uneven_channels(compared["outputs"], built)),
        **_of_file(built, evidence, quantized, known),
        **compared,
        **_on_target(built.content, target),
        made_with=_environment(),
    )


# Variables that set how many threads sum.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def _environment() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = [f"{name}={os.environ[name]}" for name in _THREADS if name in os.environ]
    packages = {"TensorFlow": tf, "Keras": keras, "NumPy": np, "SciPy": scipy}
    versions = [f"{name} {package.__version__}" for name, package in packages.items()]
    versions.append(f"LiteRT {importlib.metadata.version('ai-edge-litert')}")
    return ", ".join([f"tfdatafree {__version__}", *versions, f"{cores} cores", *threads])


@dataclass(frozen=True)
class Change:
    """What was done to the weights of a network that was written before.

    Attributes:
        how: Name of the method: "feature regression", "distillation" or "reconstruction".
        note: What came of it, in a line.
        seconds: How long it took.
    """

    how: str
    note: str
    seconds: float = 0.0


def rewritten_report(
    report: Report,
    reference: Graph,
    built: Built,
    evidence: Evidence,
    inputs: Sequence[np.ndarray],
    *,
    to_estimate: Draw,
    target: Target,
    change: Change,
) -> Report:
    """The report of the same compression after other weights were written.

    Args:
        reference: The network that outputs are compared with.
        inputs: Inputs for the comparison.
        to_estimate: Makes the inputs that the share of decisions is estimated from; the user's own, where they gave some.
        change: What was done to the weights; its seconds are added.
    """
    # How well the results stay right after pruning says nothing about other weights.
    pruning = None if report.pruning is None else dataclasses.replace(report.pruning, fidelity=None)
    return dataclasses.replace(
        report,
        pruning=pruning,
        seconds=report.seconds + change.seconds,
        notes={**report.notes, **built.notes, change.how: change.note},
        before_recovery=report.before_recovery or report.outputs,
        call={**report.call, "recovered": change.how},
        latencies=(),
        **_of_file(built, evidence, True, {row.name: row.known_by for row in report.layers}),
        **_compared(reference, built, inputs, to_estimate, real=_is_measured(report)),
        **_on_target(built.content, target),
    )


def _of_file(built: Built, evidence: Evidence, quantized: bool, known: Mapping[str, str]) -> dict[str, Any]:
    """Fields of the report about the file; `known` says of its tensors what tells their ranges."""
    return {
        "bytes": len(built.content or b""),
        "gzip_bytes": gzip_bytes([built.content]) if built.content else 0,
        "zeros": kernel_zeros(built.content) if built.content else None,
        "integer_only": quantized and not built.float_reasons,
        "requantized": built.requantized,
        "layers": tuple(_rows(built, evidence, known)) if quantized else (),
    }


def _is_measured(report: Report) -> bool:
    return any(output.expected is not None and output.expected.measured for output in report.outputs)


def _to_estimate(network: Network, inputs: Inputs) -> Draw:
    return lambda: inputs.arrays if inputs.real else inputs_to_estimate(network.source, network.input_ranges)


def _compared(
    reference: Graph, built: Built, inputs: Sequence[np.ndarray], to_estimate: Draw, *, real: bool
) -> dict[str, Any]:
    """Fields of the report that compare the result with the user's model; with `real` ones, decisions are counted."""
    first_inputs = [array[:COMPARED_OUTPUTS] for array in inputs]
    forms, references = output_forms(reference), reference.run_in_batches(first_inputs)
    results = predict_as_written(built, first_inputs)
    decides = chooses(forms, references)
    if real and any(decides):
        given = to_estimate()
        expected = count(decides, reference.run_in_batches(given), predict_as_written(built, given))
    else:
        expected = estimate(decides, reference.run_in_batches, scores_as_written(built), to_estimate)
    return {"outputs": compare_outputs(forms, references, results, expected), "compared": len(first_inputs[0])}


def _uneven_channels(outputs: Sequence[OutputComparison], built: Built) -> Iterator[str]:
    """What is wrong with outputs whose channels have very different steps, in sentences."""
    for output, tensor in zip(outputs, [] if built.tail else built.graph.outputs, strict=False):
        grid = built.grids.get(tensor)
        narrow, *others = output.parts or (None,)
        if grid is None or narrow is None or not narrow.name.startswith("channel"):
            continue
        if narrow.sqnr_db < _NOISY_DB and narrow.step * UNEVEN < grid.scale:
            yield (
                f"in output '{output.name}' {narrow.name} need steps of {narrow.step:.2g} and keep {narrow.sqnr_db:.1f} dB, "
                f"{others[0].name} force {float(grid.scale):.2g} on them: give them outputs of their own in the model"
            )


def _on_target(content: bytes | None, target: Target) -> dict[str, Any]:
    """Fields of the report about the target. The device's compiler decides if it is installed.

    Raises:
        ExportError: The target cannot use the file.
    """
    if content is None or target is GENERIC:
        return {}
    verdict = ask_compiler(check_target(content, target), content, target)
    compiled = verdict.compiled
    return {
        "on_target": verdict.check,
        "npu_bytes": None if compiled is None else compiled.bytes,
        "npu_seconds": compiled.seconds if isinstance(compiled, NpuSizes) else None,
    }


def _input_ranges(network: Network, inputs: Inputs) -> str:
    """Per input its range and where it comes from, in a line of its own; several inputs are named."""
    names = network.reference.inputs
    texts = [
        _input_range(found, array, inputs) for found, array in zip(network.input_ranges, inputs.arrays, strict=True)
    ]
    return texts[0] if len(names) == 1 else "\n".join(f"{n}: {text}" for n, text in zip(names, texts, strict=True))


def _input_range(found: InputRange, array: np.ndarray, inputs: Inputs) -> str:
    """The range, where it comes from, and how well the generated inputs fit the first statistics."""
    low, high, origin = found.low, found.high, found.origin
    if inputs.real and not inputs.in_range:
        seen = float(array.min()), float(array.max())
        if origin != "given":
            low, high, origin = *seen, "from the given inputs"
        elif seen[0] < low or seen[1] > high:
            low, high, origin = min(seen[0], low), max(seen[1], high), "given, and widened by the given inputs"
    text = f"[{low:g}, {high:g}], {origin}"
    if inputs.real or found.divergence is None:
        return text
    return f"{text}; generated {found.kind} fit within {found.divergence:.2g} nats"


def _input_warning(network: Network, inputs: Inputs) -> str:
    """What is in doubt about the ranges and about what was generated in them, in lines; real inputs settle it."""
    if inputs.real:
        return ""
    lines = [found.warning for found in network.input_ranges if found.warning]
    if network.mismatch is not None and network.mismatch.mean > MISSED:
        lines.append(
            f"generated inputs miss the statistics of the network's BatchNorms by {network.mismatch}; activation ranges are "
            "in doubt: pass 8 real inputs as representative_data."
        )
    return "\n".join(lines)


def _known_by(network: Network, built: Built, inputs: Inputs) -> dict[str, str]:
    """Tensor -> what tells its range."""
    if inputs.real:
        return dict.fromkeys(built.graph.specs, DATA)
    ranges = dict(zip(network.reference.inputs, network.input_ranges, strict=True))
    return what_tells(built.graph, normalized_tensors(network.unfolded), ranges)


def _doubt(known: Mapping[str, str]) -> dict[str, str]:
    """The note for a network without any normalization: what its ranges rest on."""
    if any(told not in (BOUND, GENERATED) for told in known.values()) or GENERATED not in known.values():
        return {}
    return {
        "ranges": "no layer tells how large values become inside; the ranges are those of generated inputs. 8 real inputs "
        "as representative_data settle it"
    }


def _float_source(recipe: Recipe) -> str:
    """What the report says a float file was made from."""
    return "the weights alone; no data" if recipe.prune is None else _PRUNED_FROM


def _rows(built: Built, evidence: Evidence, known: Mapping[str, str]) -> Iterable[LayerRow]:
    """One row per tensor of the file, in execution order; fused layers share a row."""
    graph, pending = built.graph, []
    # Graph tensor -> the rows that its value was computed from; its own row, if it has one.
    sources: dict[str, tuple[str, ...]] = {tensor: (tensor,) for tensor in graph.inputs if tensor in built.grids}
    for tensor in graph.inputs:
        if tensor in built.grids:
            yield _row(built, evidence, tensor, "input", None, (), known, 0)
    for node in graph.nodes:
        pending.append(node)
        reads = tuple(dict.fromkeys(row for tensor in node.inputs for row in sources.get(tensor, ())))
        sources |= {tensor: (tensor,) if tensor in built.grids else reads for tensor in node.outputs}
        if node.output not in built.grids:
            continue
        classes = " + ".join(_label(graph, part) for part in pending)
        weighted = next((part.layer for part in pending if part.layer in built.kernels), None)
        total = sum(multiplications_of(graph, part) for part in pending)
        yield _row(built, evidence, node.output, classes, weighted, reads, known, total)
        pending = []


def _label(graph: Graph, node) -> str:
    layer = graph.layer_of(node)
    name = getattr(getattr(layer.operation, "activation", None), "__name__", None)
    return name if layer.class_name == "Activation" and name is not None else layer.class_name


def _row(
    built: Built,
    evidence: Evidence,
    tensor: str,
    operation: str,
    layer: str | None,
    reads: tuple[str, ...],
    known: Mapping[str, str],
    multiplications: int,
) -> LayerRow:
    grid, check = built.grids[tensor], built.checks[tensor]
    kernel, weights = (None, None) if layer is None else (built.kernels.get(layer), evidence.kernels.get(layer))
    values = evidence.values.get(tensor)
    return LayerRow(
        name=tensor,
        operation=operation,
        weight_bits=None if kernel is None else kernel.grid.bits,
        weight_scales=None if kernel is None else int(np.size(kernel.grid.scale)),
        activation_bits=grid.bits,
        low=float(grid.low),
        high=float(grid.high),
        sqnr_db=check.sqnr_db,
        lsb=check.lsb,
        known_by=known.get(tensor, ""),
        layer=layer,
        reads=reads,
        shape=tuple(built.graph.specs[tensor].shape[1:]),
        weights=None if weights is None else weights.size,
        sparsity=None if weights is None else weights.sparsity,
        weight_steps=None if weights is None else weights.scales,
        seen=None if values is None else (values.low, values.high),
        clipped=None if values is None else values.clipped,
        damage=evidence.damages.get(tensor),
        bytes=None if weights is None else weights.bytes,
        multiplications=multiplications,
    )
