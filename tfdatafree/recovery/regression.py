"""feature_regression(): a pruned or quantized network learns from the one that it came from, without labels or data.

    pose the problem -> re-estimate BatchNorms -> solve layer by layer -> train (the network, or block after block)
        -> judge -> Keras model (-> integer file)

What is to be learned is put together in problem.py; layers are solved in solve.py and
trained in train.py.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import keras
import numpy as np

from tfdatafree.compressed import Compressed
from tfdatafree.errors import ExportError
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.measuring.walks import one_batch
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.progress import Progress
from tfdatafree.recovery.blocks import cut_into_blocks
from tfdatafree.recovery.problem import Judge, Problem, kernels_before_rounding, pose
from tfdatafree.recovery.reestimate_batchnorm import reestimate_batchnorm
from tfdatafree.recovery.solve import Constraints, solve_in_order
from tfdatafree.recovery.train import Images, Regression, regress

_MOST_PER_BATCH = 32
# Bytes that the activations of one batch may take; gradients and workspace take about twice as much again.
_BATCH_BYTES = 2**29
# Bytes that the largest activation of the images that layers are solved for may take; about five such are in memory.
_SOLVED_BYTES = 2**29


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
    problem = pose(student, teacher, images, masks=masks, grids=grids, seed=seed)
    options = Regression(
        steps=steps,
        learning_rate=learning_rate,
        batch_size=_batch_size(problem.student) if batch_size is None else batch_size,
        flip=flip and mode == "network",
        seed=seed,
    )
    found = [(problem.student, problem.grids)]  # each from the one before it
    if reestimate:
        found.append((_reestimated(problem), problem.grids))
    if solve:
        found.append(_solved(problem, found[-1][0], seed))
    training = _train(problem, *found[-1], options, mode, verbose)
    if any(training.steps.values()):
        found.append((training.graph, found[-1][1]))
    judge = Judge(problem)
    discrepancies = [judge.discrepancy(graph) for graph, _ in found]
    before, after = discrepancies[0], min(discrepancies)
    best, settled = found[max(at for at, value in enumerate(discrepancies) if value == after)]
    steps_taken = training.steps if best is training.graph else dict.fromkeys(training.steps, 0)
    kept, compressed = problem.kept | training.kept, None
    if problem.written:
        how = "trained" if steps else "solved"
        note = f"{how} on {len(problem.inputs[0])} images: Output Discrepancy {before:.4g} -> {after:.4g} on those held out"
        try:
            compressed = student.rewritten(
                _rebuilt(student.built.graph, best),
                {**problem.written, **settled},
                reference=problem.whole,
                note=note,
                seconds=time.perf_counter() - begun,
            )
        except ExportError as error:
            kept[problem.source.name] = f"no file was written: {error}"
    return Recovered(
        model=_rebuilt(problem.source, best).to_keras() if compressed is None else compressed.model,
        compressed=compressed,
        before=before,
        after=after,
        loss=training.loss,
        steps=steps_taken,
        kept=kept,
    )


def _reestimated(problem: Problem) -> Graph:
    return reestimate_batchnorm(problem.student, problem.teacher, one_batch(problem.student, problem.inputs))


def _solved(problem: Problem, graph: Graph, seed: int) -> tuple[Graph, dict[str, Quantizer]]:
    some = one_batch(problem.student, problem.images.student, _SOLVED_BYTES)
    constraints = Constraints(
        masks=problem.masks,
        grids=problem.grids,
        latent=kernels_before_rounding(graph, problem.teacher, problem.grids),
        fixed=problem.fixed,
        new_steps=bool(problem.written),
    )
    return solve_in_order(graph, problem.teacher, problem.pairs, (some, some), constraints, seed=seed)


# Training ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Training:
    """A trained graph; the others are those of `Recovered`."""

    graph: Graph
    steps: dict[str, int]
    loss: np.ndarray
    kept: dict[str, str]


def _train(
    problem: Problem, graph: Graph, grids: Mapping[str, Quantizer], options: Regression, mode: str, verbose: int
) -> _Training:
    """`graph` trained, as a whole or block after block."""
    blocks = [(graph, problem.teacher)]
    if mode == "blocks":
        blocks = cut_into_blocks(graph, problem.teacher, problem.pairs)
    shared = {key for key in graph.layers if sum(key in block.layers for block, _ in blocks) > 1}
    kept = {key: "called in several blocks" for key in sorted(shared) if graph.layers[key].weights}
    untrained = shared | problem.fixed
    progress = Progress(options.steps * len(blocks), verbose if options.steps else 0)
    losses: list[float] = []

    def on_step(loss: float) -> None:
        losses.append(loss)
        progress.step(f"feature regression, loss {loss:.4f}")

    sides, steps = problem.images, {}
    try:
        for block, target in blocks:
            trained, step = regress(
                block,
                target,
                sides,
                options,
                masks=problem.masks,
                grids=grids,
                trained=lambda key: key not in untrained,
                on_step=on_step,
            )
            steps["network" if len(blocks) == 1 else block.outputs[0]] = step
            graph = dataclasses.replace(graph, layers=graph.layers | trained.layers)
            if len(blocks) > 1:
                sides = _passed_on(sides, trained, target, options.batch_size)
    finally:
        progress.close()
    return _Training(graph, steps, np.array(losses, np.float32), kept)


def _batch_size(graph: Graph) -> int:
    elements = sum(np.prod([size or 1 for size in spec.shape[1:]]) for spec in graph.specs.values())
    return int(min(_MOST_PER_BATCH, max(1, _BATCH_BYTES // (4 * elements))))


def _passed_on(sides: Images, student: Graph, teacher: Graph, step: int) -> Images:
    """What the next block reads."""
    if student.outputs != teacher.outputs or len(student.outputs) != 1:
        return sides  # the last block: nothing comes behind it
    return Images(
        student.run_in_batches(sides.student, step),
        teacher.run_in_batches(sides.teacher, step),
        student.run_in_batches(sides.held_student, step),
        teacher.run_in_batches(sides.held_teacher, step),
    )


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
