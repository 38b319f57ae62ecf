"""feature_regression(): a pruned or quantized network learns from the one that it came from, without labels or data.

    hold out -> re-estimate BatchNorms -> solve layer by layer -> train (the network, or block after block) -> judge -> Keras
    model (-> integer file)

Layers are solved in optimizers/layer_by_layer.py and trained in optimizers/feature_regression.py.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfdatafree.compressed import Compressed
from tfdatafree.errors import ExportError
from tfdatafree.generate import GeneratedImages
from tfdatafree.generators.images import batch_size as forward_batch
from tfdatafree.generators.images import one_batch
from tfdatafree.generators.representative import take_inputs
from tfdatafree.graph import Graph, Layer
from tfdatafree.linear import from_output_last, kernel_of, layout_of, output_last
from tfdatafree.load import load
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.metrics import output_discrepancy
from tfdatafree.optimizers.feature_regression import Images, Regression, feature_pairs, regress, zeros_of
from tfdatafree.optimizers.layer_by_layer import solve_in_order
from tfdatafree.optimizers.reestimate_batchnorm import reestimate_batchnorm
from tfdatafree.preparation import compressible
from tfdatafree.progress import Progress
from tfdatafree.rewrite import rewrite
from tfdatafree.targets import GENERIC
from tfdatafree.visitors.absorb_bias import absorb_biases
from tfdatafree.visitors.fold_batchnorm import fold
from tfdatafree.visitors.resize import resize
from tfdatafree.visitors.scale_channels import scale_alike
from tfdatafree.visitors.separate import separate

# Part of the images that judges and does not train.
_HELD_OUT = 0.25
_MOST_PER_BATCH = 32
# Bytes that the activations of one batch may take; gradients and workspace take about twice as much again.
_BATCH_BYTES = 2**29
# Bytes that the largest activation of the images that layers are solved for may take; about five such are in memory.
_SOLVED_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What `feature_regression` returns.

    Attributes:
        model: The student with new weights, built as it was.
        compressed: Where the student was the result of a quantizing `compress`: the same as it returned, with the new
            weights; activations keep their grids, and weights as many bits. `.tflite` is the file, `.model` is `model`. None
            for any other student, where `grids` were given, and where no file could be written: then `kept` says why.
        before, after: Output Discrepancy to the teacher on the held-out images; after <= before.
        loss: Of each step on the images that it trained on; block after block in block-wise mode.
        steps: Block (or "network") -> the step whose weights were taken; 0: none was better than the start.
        kept: Layer -> why it was not trained, or not compared.
    """

    model: keras.Model
    compressed: Compressed | None
    before: float
    after: float
    loss: np.ndarray
    steps: dict[str, int]
    kept: dict[str, str]


def feature_regression(
    student: "keras.Model | Compressed",
    teacher: keras.Model,
    images: "np.ndarray | list[np.ndarray] | Mapping[str, np.ndarray] | GeneratedImages",
    *,
    mode: Literal["network", "blocks"] = "network",
    masks: Mapping[str, np.ndarray] | None = None,
    grids: Mapping[str, Quantizer] | None = None,
    steps: int = 300,
    learning_rate: float = 0.8,
    batch_size: int | None = None,
    reestimate: bool = True,
    solve: bool = True,
    flip: bool = True,
    seed: int = 0,
    verbose: int = 1,
) -> Recovered:
    """Trains the student's kernels, biases and BatchNorms to give the teacher's features. Neither model is changed.

    Args:
        student: The teacher with changed weights: layers are compared by name. BatchNorms may be folded, and
            Quantization layers (of `Compressed.model`) are passed straight through. A `Compressed` tells, too, by what its
            channels were scaled (`channel_scales`): the teacher's are then compared as if they had been, too.
        teacher: The float model.
        images: Real values (n, *shape); a list or a dict by name for several inputs; or what `generate_images` returned,
            e.g. with n=256, statistics="set", batch_size=32. A quarter is held out. Images of another size than the model's
            one input has will do, where its layers work at that size; smaller ones take less time and memory.
        mode: "network": all layers at once; "blocks": one after the other, cut where a single tensor passes on, each fed
            with what the trained blocks before it give. Needs the memory of a block only. Recovers less after heavy pruning;
            try it where little is lost.
        masks: Layer name -> bool in its kernel's shape, False for weights that stay zero. None: what is zero in the
            student stays zero, but for integer kernels of a `Compressed` that was not pruned; {}: nothing does.
        grids: Layer name -> grid that its kernel is kept on. None: those of a `Compressed` (its `weight_grids`), whose steps
            may change, as `Recovered.compressed.weight_grids` tells; {}: none.
        steps: Of Adam (per block in block-wise mode). 0: none; layers are solved only, in a small part of the time.
        learning_rate: The first step's length as a part of the rms of what it changes, times the discrepancy that there is
            at the start; cosine decay to 0.
        batch_size: Images per step; None: 32, or as many as memory allows.
        reestimate: Move the BatchNorms' statistics first, by as much as the student's layers moved.
        solve: Then solve for each layer in order, by least squares; wins back most of what comes back where little is
            lost. Kernels on grids are rounded anew.
        flip: Mirror half of the images, at random, and move all by up to an eighth of their size, in network mode.
        seed: The same seed gives the same weights.
        verbose: 0 hides the progress bar, which shows the loss.

    Returns:
        A Recovered: `.model`, and of a `Compressed` `.compressed`, which holds the integer file.

    Guarantees that the Output Discrepancy on the held-out images is not larger than before.

    Raises:
        ValueError: An option is wrong; too few images; no layer of the two models has the same name.
        UnsupportedModelError, LoadError: As for `compress`.
    Source: Sobolev et al., FRanDI, eq. 2.
    """
    if mode not in ("network", "blocks"):
        raise ValueError(f"mode is {mode!r}; choose 'network' or 'blocks'.")
    begun = time.perf_counter()
    source = Graph.from_keras(student.model if isinstance(student, Compressed) else load(student))
    written: Mapping[str, Quantizer | None] = {}
    unpruned: Collection[str] = ()
    if isinstance(student, Compressed):
        written = {} if grids is not None else student.weight_grids
        unpruned = student.weight_grids if student.recipe.prune is None else ()
    whole = Graph.from_keras(load(teacher))
    begin, reference = separate(source), _alike(whole, student) if isinstance(student, Compressed) else separate(whole)
    size = _other_size(images, begin)
    if size is not None:
        begin, reference = resize(begin, size), resize(reference, size)
    inputs = _inputs(images, begin)
    pairs, kept = feature_pairs(begin, reference)
    if not pairs:
        raise ValueError(
            f"no layer of '{source.name}' has a counterpart in '{reference.name}': layers are compared by name, and "
            "the student must be the teacher with changed weights."
        )
    if masks is None:
        masks = {key: mask for key, mask in zeros_of(begin).items() if key not in unpruned}
    else:
        masks = _checked(masks, begin, "masks", np.shape)
    grids = {key: grid for key, grid in written.items() if grid is not None} if grids is None else grids
    grids = _checked(grids, begin, "grids", None)
    gridless = {key for key, grid in written.items() if grid is None}
    options = Regression(
        steps=steps,
        learning_rate=learning_rate,
        batch_size=_batch_size(begin) if batch_size is None else batch_size,
        flip=flip and mode == "network",
        seed=seed,
    )
    order = np.random.default_rng(seed).permutation(len(inputs[0]))
    held = max(1, round(_HELD_OUT * len(order)))
    train, judge = ([array[rows] for array in inputs] for rows in (order[held:], order[:held]))
    moved = reestimate_batchnorm(begin, reference, one_batch(begin, inputs)) if reestimate else begin
    started, settled = moved, grids
    if solve:
        some = one_batch(begin, train, _SOLVED_BYTES)
        started, settled = solve_in_order(
            moved,
            reference,
            pairs,
            some,
            some,
            masks=masks,
            grids=grids,
            latent=_latent(moved, reference, grids),
            trained=lambda key: key not in gridless,
            new_steps=bool(written),
            seed=seed,
        )
    blocks = _blocks(started, reference, pairs) if mode == "blocks" else [(started, reference)]
    untrained = {key for key in started.layers if sum(key in block.layers for block, _ in blocks) > 1}
    kept |= {key: "called in several blocks" for key in sorted(untrained) if moved.layers[key].weights}
    untrained |= gridless
    kept |= dict.fromkeys(sorted(gridless), "its kernel's steps do not run along a single axis")
    progress = Progress(steps * len(blocks), verbose if steps else 0)
    losses: list[float] = []

    def on_step(loss: float) -> None:
        losses.append(loss)
        progress.step(f"feature regression, loss {loss:.4f}")

    try:
        taken, steps_taken = started, {}
        sides = Images(train, train, judge, judge)
        for block, target in blocks:
            trained, step = regress(
                block,
                target,
                sides,
                options,
                masks=masks,
                grids=settled,
                trained=lambda key: key not in untrained,
                on_step=on_step,
            )
            steps_taken["network" if len(blocks) == 1 else block.outputs[0]] = step
            taken = dataclasses.replace(taken, layers=taken.layers | trained.layers)
            if len(blocks) > 1:
                sides = _passed_on(sides, trained, target, options.batch_size)
    finally:
        progress.close()
    wanted = _outputs(reference, judge)
    before = _discrepancy(begin, wanted, judge)
    tried = [(taken, settled)] if any(steps_taken.values()) else []
    tried += [(started, settled)] if solve else []
    tried += [(moved, grids)]
    after, at = min((_discrepancy(graph, wanted, judge), at) for at, (graph, _) in enumerate(tried))
    best, on = tried[at] if after <= before else (begin, grids)
    after = min(after, before)
    if best is not taken:
        steps_taken = dict.fromkeys(steps_taken, 0)
    compressed = None
    if written:
        how = "trained" if steps else "solved"
        note = f"{how} on {len(inputs[0])} images: Output Discrepancy {before:.4g} -> {after:.4g} on those held out"
        try:
            weights = _rebuilt(student._graph, best)
            compressed = rewrite(
                student, weights, {**written, **on}, whole, note=note, seconds=time.perf_counter() - begun
            )
        except ExportError as error:
            kept[source.name] = f"no file was written: {error}"
    return Recovered(
        model=_rebuilt(source, best).to_keras() if compressed is None else compressed.model,
        compressed=compressed,
        before=before,
        after=after,
        loss=np.array(losses, np.float32),
        steps=steps_taken,
        kept=kept,
    )


def _alike(teacher: Graph, student: Compressed) -> Graph:
    """The teacher, with its channels scaled, and its high biases moved, as those of the student were."""
    target = GENERIC if student._writing is None else student._writing.target
    scaled = scale_alike(compressible(teacher, target), student.channel_scales)
    return absorb_biases(scaled)[0] if student.recipe.absorb_bias else scaled


def _other_size(images: Any, graph: Graph) -> tuple[int, ...] | None:
    """Shape of the images without the batch, where only their size is another than that of the model's one input."""
    given = images.inputs if isinstance(images, GeneratedImages) else images
    array = next(iter(given.values())) if isinstance(given, Mapping) and len(given) == 1 else given
    shape, wanted = tuple(getattr(array, "shape", ()))[1:], graph.specs[graph.inputs[0]].shape[1:]
    alike = len(graph.inputs) == 1 and 1 < len(shape) == len(wanted) and shape[-1] == wanted[-1]
    return shape if alike and shape != wanted else None


def _inputs(images: Any, graph: Graph) -> list[np.ndarray]:
    if isinstance(images, GeneratedImages):
        images = dict(images.inputs)
    given = take_inputs(images, graph, most=None, source="images")
    if len(given[0]) < 2:
        raise ValueError(f"images are {len(given[0])}; give at least 2 (better 128): some train, and some judge.")
    return given


def _checked(given: Mapping[str, Any], graph: Graph, name: str, shape: Callable | None) -> dict[str, Any]:
    known = zeros_of(graph)
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{name} are for {', '.join(unknown)}; the layers with kernels are {', '.join(known)}.")
    for key, value in given.items():
        if shape is not None and shape(value) != known[key].shape:
            raise ValueError(f"{name} for '{key}' have shape {shape(value)}; the kernel's is {known[key].shape}.")
    return {key: np.asarray(value, bool) if shape is not None else value for key, value in given.items()}


def _batch_size(graph: Graph) -> int:
    elements = sum(np.prod([size or 1 for size in spec.shape[1:]]) for spec in graph.specs.values())
    return int(min(_MOST_PER_BATCH, max(1, _BATCH_BYTES // (4 * elements))))


def _discrepancy(graph: Graph, wanted: list[np.ndarray], inputs: list[np.ndarray]) -> float:
    """Output Discrepancy to `wanted`, mean over the outputs; inf where the student's outputs are not finite."""
    distances = [output_discrepancy(a, b) for a, b in zip(_outputs(graph, inputs), wanted, strict=True)]
    return float(np.mean(distances)) if np.isfinite(distances).all() else np.inf


def _outputs(graph: Graph, inputs: list[np.ndarray]) -> list[np.ndarray]:
    step = forward_batch(graph)
    parts = [
        graph.predict([tf.constant(array[at : at + step]) for array in inputs]) for at in range(0, len(inputs[0]), step)
    ]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


# Blocks ---------------------------------------------------------------------------------------------------------------


def _blocks(student: Graph, teacher: Graph, pairs: Mapping[str, tuple[str, str]]) -> list[tuple[Graph, Graph]]:
    """Both graphs cut where one tensor alone passes on, the same in both; each block holds a layer that is compared."""
    of_teacher = dict(pairs.values())
    cuts = [tensor for tensor in _bottlenecks(student) if _same(tensor, student, teacher, of_teacher)]
    theirs = set(_bottlenecks(teacher))
    blocks, first, begun = [], 0, student.inputs
    their_first, their_begun = 0, teacher.inputs
    for tensor in [cut for cut in cuts if cut in theirs] + [None]:
        end, their_end = (
            len(graph.nodes)
            if tensor is None
            else 1 + next(i for i, n in enumerate(graph.nodes) if tensor in n.outputs)
            for graph in (student, teacher)
        )
        compared = any(node.name in pairs for node in student.nodes[first:end])
        if tensor is not None and (not compared or not any(node.name in pairs for node in student.nodes[end:])):
            continue
        blocks.append(
            (
                _part(student, first, end, begun, tensor),
                _part(teacher, their_first, their_end, their_begun, tensor),
            )
        )
        first, their_first = end, their_end
        begun = their_begun = [tensor]
    return blocks


def _bottlenecks(graph: Graph) -> list[str]:
    """Tensors that, once written, are all that is still to be read."""
    last = {tensor: at for at, node in enumerate(graph.nodes) for tensor in node.inputs}
    last |= dict.fromkeys(graph.outputs, len(graph.nodes))
    live, found = set(graph.inputs), []
    for at, node in enumerate(graph.nodes):
        live |= set(node.outputs)
        live = {tensor for tensor in live if last.get(tensor, -1) > at}
        if len(live) == 1 and live == {node.output}:
            found.append(node.output)
    return found


def _same(tensor: str, student: Graph, teacher: Graph, of_teacher: Mapping[str, str]) -> bool:
    """Whether `tensor` means the same in both: a convolution's output is before or behind its BatchNorm."""
    if tensor not in teacher.specs or teacher.specs[tensor].shape[1:] != student.specs[tensor].shape[1:]:
        return False
    weighted = layout_of(student.layer_of(student.producers()[tensor])) is not None
    return of_teacher.get(tensor) == tensor if weighted else True


def _part(graph: Graph, first: int, end: int, inputs: list[str], output: str | None) -> Graph:
    nodes = graph.nodes[first:end]
    return dataclasses.replace(
        graph.copy(),
        nodes=list(nodes),
        layers={node.layer: graph.layers[node.layer] for node in nodes},
        inputs=list(inputs),
        outputs=list(graph.outputs) if output is None else [output],
    )


def _passed_on(sides: Images, student: Graph, teacher: Graph, step: int) -> Images:
    """What the next block reads."""

    def through(graph: Graph, arrays: list[np.ndarray]) -> list[np.ndarray]:
        parts = [
            graph.predict([tf.constant(array[at : at + step]) for array in arrays])
            for at in range(0, len(arrays[0]), step)
        ]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    if student.outputs != teacher.outputs or len(student.outputs) != 1:
        return sides  # the last block: nothing comes behind it
    return Images(
        through(student, sides.student),
        through(teacher, sides.teacher),
        through(student, sides.held_student),
        through(teacher, sides.held_teacher),
    )


# Layer by layer ---------------------------------------------------------------------------------------------------------


def _latent(student: Graph, teacher: Graph, grids: Mapping[str, Quantizer]) -> dict[str, np.ndarray]:
    """Layer -> the kernel that was put on its grid: the teacher's, its BatchNorms folded, in the output channels where it is
    less than a step away, as what was rounded is; elsewhere the student's own."""
    folded, found = fold(teacher)[0], {}
    for key, grid in grids.items():
        if key not in folded.layers or layout_of(folded.layers[key]) is None:
            continue
        layout, ours, theirs = layout_of(student.layers[key]), *(kernel_of(g.layers[key]) for g in (student, folded))
        if ours.shape == theirs.shape:
            steps = output_last((ours - theirs) / _step(grid, ours.ndim), layout)
            near = np.sqrt(np.mean(np.square(steps), axis=0)) < 1
            matrix = np.where(near, output_last(theirs, layout), output_last(ours, layout))
            found[key] = from_output_last(matrix, ours.shape, layout)
    return found


def _step(grid: Quantizer, rank: int) -> np.ndarray:
    shape = [1] * rank
    if grid.channel_axis is not None:
        shape[grid.channel_axis] = -1
    return np.reshape(grid.scale, shape)


# Back to the student ----------------------------------------------------------------------------------------------------


def _rebuilt(source: Graph, trained: Graph) -> Graph:
    """`source` with the weights of its separated form."""
    source = source.copy()
    for key, layer in source.layers.items():
        found = trained.layers.get(key)
        if found is None or not layer.weights:
            continue
        if layer.weight("pointwise_kernel") is not None:
            depthwise = next(
                other for name, other in trained.layers.items() if name.startswith(f"{key}_depthwise") and other.weights
            )
            named = {"depthwise_kernel": depthwise.weights[0], "pointwise_kernel": found.weights[0]}
            if len(found.weights) > 1:
                named["bias"] = found.weights[1]
            source.layers[key] = layer.with_weights(**named)
        elif len(found.weights) == len(layer.weights):
            source.layers[key] = Layer(layer.operation, found.weights)
    return source
