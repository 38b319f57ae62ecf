"""compress(): a trained Keras model in, a verified integer TFLite file out, without data.

    load -> separate -> fold BatchNorm -> generate inputs, pass them on -> prune -> round weights, correct biases -> ranges
         -> export, verify -> report

The unfolded graph is kept beside the folded one: its BatchNorm statistics are the data.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfdatafree.compressed import Compressed
from tfdatafree.errors import UnsupportedModelError
from tfdatafree.export.build import Built, build_integer_file
from tfdatafree.export.float_model import convert
from tfdatafree.export.sizes import gzip_bytes, kernel_zeros
from tfdatafree.generators.images import make_inputs
from tfdatafree.generators.input_range import InputRange, check_input_range, find_input_range
from tfdatafree.generators.observe import Observed, observe
from tfdatafree.generators.representative import take_inputs
from tfdatafree.graph import Graph
from tfdatafree.linear import layout_of
from tfdatafree.load import load
from tfdatafree.numerics.metrics import relative_error
from tfdatafree.optimizers.activation_ranges import between, choose_ranges, widest, within_caps
from tfdatafree.optimizers.empirical_bias import correct_biases_on_inputs
from tfdatafree.optimizers.headroom import decision_tensors
from tfdatafree.optimizers.ranges import Range
from tfdatafree.optimizers.rounding import correct_biases, quantize_weights
from tfdatafree.progress import Progress
from tfdatafree.prune_channels import Smaller, prune_channels
from tfdatafree.pruning import Pruned, prune
from tfdatafree.recipe import Quantize, Recipe, get_recipe
from tfdatafree.report import LayerRow, Pruning, Report
from tfdatafree.visitors.absorb_bias import absorb_biases
from tfdatafree.visitors.constant_channels import freeze_constant_channels
from tfdatafree.visitors.equalize import equalize_unfolded
from tfdatafree.visitors.fold_batchnorm import fold
from tfdatafree.visitors.fold_scales import fold_scales
from tfdatafree.visitors.global_pooling import globalize_pooling
from tfdatafree.visitors.merge_twins import merge_twins
from tfdatafree.visitors.separate import separate
from tfdatafree.visitors.split_normalization import split_normalization

TARGETS = ("generic",)
_PRUNED_FROM = "procedural images and BatchNorm statistics; no data"

# Generated inputs on which float outputs are compared.
_COMPARED = 8


def compress(
    model: "keras.Model | str | os.PathLike",
    recipe: str | Recipe = "int8",
    *,
    input_range: tuple[float, float] | None = None,
    input_shape: tuple[int, ...] | None = None,
    representative_data: Any = None,
    target: str = "generic",
    seed: int = 0,
    executor: Executor | None = None,
    unsafe_load: bool = False,
    verbose: int = 1,
) -> Compressed:
    """Compresses a trained model without data. The model itself is not changed.

    Args:
        model: A Functional or Sequential `keras.Model`, a `tf_keras` model, or a path to a .keras or .h5 file.
        recipe: Name of a preset ("int8", "int8_per_tensor", "int16x8", "float16", "dfq", "lwdf"), or a Recipe.
        input_range: (low, high) of the real inputs, the same for all of them; None takes it from a Rescaling or
            Normalization layer, else estimates it from the first BatchNorm, and the report says so.
        input_shape: (height, width, channels) for a model whose input shape is not static.
        representative_data: A few real inputs, if there are any (array, list of arrays, iterable of examples or
            batches, tf.data.Dataset): used in place of the generated ones, and reported.
        target: NPU profile; "generic" is TFLite's own 8-bit specification.
        seed: The same seed gives the same bytes.
        executor: Any concurrent.futures.Executor, for the per-tensor searches.
        unsafe_load: Run Python code that a .keras file carries (Lambda layers). Only for files that you trust.
        verbose: 0 hides the progress bar.

    Returns:
        A Compressed: `.tflite`, `.model`, `.report`, `.predict(x)`, `.save(path)`.

    Raises:
        LoadError: The path holds no Keras model.
        UnsupportedModelError: A layer cannot be compressed; says which and what to do.
        ExportError: The file would not be what the recipe promised.
        ValueError: An option is wrong; says what came and what was wanted.
    """
    started = time.perf_counter()
    recipe = get_recipe(recipe)
    given_range = None if input_range is None else check_input_range(input_range)
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}; choose one of {', '.join(TARGETS)}.")
    progress = Progress(6 + 2 * (recipe.prune is not None), verbose)
    try:
        with progress.stage("load"):
            source = Graph.from_keras(load(model, unsafe=unsafe_load, input_shape=input_shape))
            unfolded = merge_twins(split_normalization(globalize_pooling(separate(source))))
            _require_quantizable(unfolded)
        with progress.stage("fold BatchNorm"):
            original = unfolded
            unfolded, preconditioning = _precondition(unfolded, recipe)
            teacher, kept = fold(unfolded)
            teacher = fold_scales(teacher)
            kept |= preconditioning.kept
            found = given_range or find_input_range(unfolded, seed)
        with progress.stage("generate inputs"):
            if representative_data is None:
                inputs = make_inputs(teacher, recipe.generate.images, (found.low, found.high), seed=seed)
                generated = f"{recipe.generate.images} procedural images and BatchNorm statistics; no data"
            else:
                inputs = take_inputs(representative_data, teacher)
                generated = f"{len(inputs[0])} representative inputs given by the user, and BatchNorm statistics"
        if recipe.equalize and recipe.equalize_caps in ("limit", "drop"):
            exact, _ = _precondition(original, dataclasses.replace(recipe, equalize_caps="keep"))
            preconditioning.notes[source.name] = _moved(exact, teacher, inputs, recipe.equalize_caps)
        smaller, zeros = None, recipe.prune
        if recipe.prune is not None and recipe.prune.method == "channel":
            with progress.stage("remove channels"):
                smaller, zeros = (
                    prune_channels(unfolded, recipe.prune, input_range=(found.low, found.high), seed=seed),
                    None,
                )
                whole, unfolded = teacher, smaller.graph
                teacher = fold_scales(fold(unfolded)[0])
                preconditioning.notes["channels removed"] = _changed(whole, teacher, inputs)
            kept |= smaller.kept
        if recipe.quantize is not None or zeros is not None:
            with progress.stage("pass inputs through the layers"):
                observed = observe(unfolded, teacher, inputs, samples=recipe.generate.samples, seed=seed)
        pruned = Pruned(teacher, {}, "none", {}, {})
        if zeros is not None:
            with progress.stage("prune"):
                ends = (found.low, found.high)
                pruned = prune(teacher, unfolded, zeros, input_range=ends, means=observed.means, seed=seed)
            kept |= pruned.kept
        if recipe.quantize is None:
            with progress.stage("export"):
                content = convert(pruned.graph, [array[:1] for array in inputs], float16=recipe.float16).content
            report = _float_report(
                source, recipe, found, content, kept, _pruning(pruned, smaller), time.perf_counter() - started
            )
            return Compressed(content, recipe, report, pruned.graph, {})
        options = recipe.quantize
        with progress.stage("round weights, choose ranges"):
            student, kernels = quantize_weights(
                pruned.graph,
                bits=options.weight_bits,
                per_channel=options.per_channel,
                covariances=observed.covariances if options.rounding == "feedback" else None,
                masks=pruned.masks,
            )
            if options.bias_correction:
                if options.bias_correction == "empirical":
                    student, uncorrected = correct_biases_on_inputs(student, pruned.graph, inputs)
                else:
                    student, uncorrected = correct_biases(student, pruned.graph, observed.means)
                kept |= {key: f"bias not corrected: {reason}" for key, reason in uncorrected.items()}
            ranges = _ranges(teacher, observed, options, executor)
            ranges |= _input_ranges(teacher, found, observed, representative_data is not None)
        with progress.stage("export and verify"):
            built = build_integer_file(student, teacher, kernels, ranges, inputs, options)
    finally:
        progress.close()
    seconds = time.perf_counter() - started
    notes = preconditioning.notes | built.notes
    report = _report(source, recipe, found, generated, built, kept, notes, _pruning(pruned, smaller), seconds)
    return Compressed(built.content, recipe, report, built.graph, built.grids)


@dataclass(frozen=True)
class _Preconditioning:
    """What was done before quantization, and what was left alone, by layer."""

    notes: dict[str, str]
    kept: dict[str, str]


def _precondition(unfolded: Graph, recipe: Recipe) -> tuple[Graph, _Preconditioning]:
    """The unfolded graph made easier to quantize; its function stays, as far as integers could tell."""
    notes, kept = {}, {}
    if recipe.quantize is not None or recipe.prune is not None:
        unfolded, frozen = freeze_constant_channels(unfolded)
        for name, count in frozen.items():
            notes[name] = f"{count} channel(s) made constant: they move by less than the 8-bit grid"
    if recipe.equalize:
        unfolded, reasons = equalize_unfolded(unfolded, power=recipe.equalize_power, caps=recipe.equalize_caps)
        kept |= {name: f"not equalized: {reason}" for name, reason in reasons.items()}
    if recipe.absorb_bias:
        unfolded, moved, reasons = absorb_biases(unfolded)
        notes |= {name: f"high biases of {count} channel(s) moved into the next layer" for name, count in moved.items()}
        kept |= {name: f"high biases stay: {reason}" for name, reason in reasons.items()}
    return unfolded, _Preconditioning(notes, kept)


def _moved(exact: Graph, teacher: Graph, inputs: list[np.ndarray], caps: str) -> str:
    """How far equalization, which trusted BatchNorm statistics about caps, moved the float outputs."""
    some = [array[:_COMPARED] for array in inputs]
    pairs = zip(fold(exact)[0].predict(some), teacher.predict(some), strict=True)
    change = max(relative_error(after, before) for before, after in pairs)
    return f"with equalize_caps={caps!r} the float outputs move by {change:.1%} on {len(some[0])} generated inputs"


def _require_quantizable(graph: Graph) -> None:
    """Raises UnsupportedModelError unless some layer has a kernel, and for weights that are not finite."""
    if not any(layout_of(layer) for layer in graph.layers.values()):
        classes = ", ".join(sorted({layer.class_name for layer in graph.layers.values()})) or "none"
        raise UnsupportedModelError(
            f"'{graph.name}' has no layer with weights to compress (convolution or Dense); its layers are: {classes}."
        )
    for key, layer in graph.layers.items():
        for values in layer.weights:
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise UnsupportedModelError(
                    f"'{key}' ({layer.class_name}) holds NaN or infinite weights; retrain it or take a sound checkpoint."
                )


def _ranges(graph: Graph, observed: Observed, options: Quantize, executor: Executor | None) -> dict[str, Range]:
    """One range per tensor; from images, between those of the images as they are and put right.

    Decisions get the wider of the two: an output that saturates is lost, one that is too coarse only noisy.
    """
    sources = [observed.gaussian] if options.range_source == "gaussian" else [observed.images, observed.normalized]
    estimates = [
        choose_ranges(graph, source, options.ranges, bits=options.activation_bits, executor=executor)
        for source in sources
    ]
    ranges = functools.reduce(between, estimates)
    widened = functools.reduce(widest, estimates)
    ranges |= {tensor: widened[tensor] for tensor in decision_tensors(graph) if tensor in widened}
    return within_caps(graph, ranges)


def _input_ranges(graph: Graph, found: InputRange, observed: Observed, from_user: bool) -> dict[str, Range]:
    """The input tensors' ranges: what the user or the model says, or the extremes of the user's own inputs."""
    if from_user and found.origin != "given":
        return {tensor: Range(observed.images[tensor].low, observed.images[tensor].high) for tensor in graph.inputs}
    return {tensor: Range(found.low, found.high) for tensor in graph.inputs}


def _float_bytes(graph: Graph) -> int:
    """Bytes of the model's weights in float32."""
    return sum(4 * values.size for layer in graph.layers.values() for values in layer.weights)


def _float_report(
    source: Graph,
    recipe: Recipe,
    found: InputRange,
    content: bytes,
    kept: dict[str, str],
    pruning: Pruning | None,
    seconds: float,
) -> Report:
    return Report(
        model=source.name,
        recipe=recipe.name,
        input_range=_range_text(found),
        generated="the weights alone; no data" if recipe.prune is None else _PRUNED_FROM,
        float_bytes=_float_bytes(source),
        bytes=len(content),
        gzip_bytes=gzip_bytes(content),
        zeros=kernel_zeros(content),
        seconds=seconds,
        integer_only=False,
        requantized=0,
        kept=kept,
        pruning=pruning,
    )


def _report(
    source: Graph,
    recipe: Recipe,
    found: InputRange,
    generated: str,
    built: Built,
    kept: dict[str, str],
    notes: dict[str, str],
    pruning: Pruning | None,
    seconds: float,
) -> Report:
    return Report(
        model=source.name,
        recipe=recipe.name,
        input_range=_range_text(found),
        generated=generated,
        float_bytes=_float_bytes(source),
        bytes=len(built.content),
        gzip_bytes=gzip_bytes(built.content),
        zeros=kernel_zeros(built.content),
        seconds=seconds,
        integer_only=not built.kept_float,
        requantized=built.requantized,
        layers=tuple(_rows(built)),
        kept=kept | built.kept_float,
        notes=notes,
        pruning=pruning,
    )


def _changed(before: Graph, after: Graph, inputs: list[np.ndarray]) -> str:
    """How far the float results, before softmax and the like, moved."""
    some = [array[:_COMPARED] for array in inputs]
    watched = decision_tensors(before) or list(before.outputs)
    results = []
    for graph in (after, before):
        shortened = dataclasses.replace(graph.copy(), outputs=watched)
        shortened.drop_unread()
        results.append(shortened.predict(some))
    change = max(relative_error(found, wanted) for found, wanted in zip(*results, strict=True))
    return f"the float outputs move by {change:.1%} on {len(some[0])} generated inputs"


def _pruning(pruned: Pruned, smaller: Smaller | None) -> Pruning | None:
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


def _range_text(found: InputRange) -> str:
    return f"[{found.low:g}, {found.high:g}], {found.origin}"


def _rows(built: Built) -> Iterable[LayerRow]:
    """One row per tensor of the file, in execution order; fused layers share a row."""
    graph, pending = built.graph, []
    for tensor in graph.inputs:
        if tensor in built.grids:
            yield _row(built, tensor, "input", None)
    for node in graph.nodes:
        pending.append(node)
        if node.output not in built.grids:
            continue
        classes = " + ".join(_label(graph, part) for part in pending)
        weighted = next((part.layer for part in pending if part.layer in built.kernels), None)
        yield _row(built, node.output, classes, weighted)
        pending = []


def _label(graph: Graph, node) -> str:
    layer = graph.layer_of(node)
    activation = getattr(layer.operation, "activation", None)
    return (
        activation.__name__
        if layer.class_name == "Activation" and hasattr(activation, "__name__")
        else layer.class_name
    )


def _row(built: Built, tensor: str, operation: str, layer: str | None) -> LayerRow:
    grid, check = built.grids[tensor], built.checks[tensor]
    kernel = built.kernels.get(layer)
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
    )
