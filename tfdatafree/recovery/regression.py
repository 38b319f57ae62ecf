"""feature_regression(): a pruned or quantized network learns from the one that it came from, without labels or data.

    pose the problem -> re-estimate BatchNorms -> solve layer by layer -> train (the network, or block after block)
        -> judge -> Keras model (-> integer file)

problem.py poses the problem, solve.py solves layers, train.py trains them, and write_back.py writes the result.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import keras
import numpy as np

from tfdatafree.compressed import Compressed
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.measuring.walks import one_batch
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.progress import Progress
from tfdatafree.recovery.blocks import cut_into_blocks
from tfdatafree.recovery.parameters import Bounds
from tfdatafree.recovery.problem import Judge, Problem, kernels_before_rounding, pose
from tfdatafree.recovery.reestimate_batchnorm import reestimate_batchnorm
from tfdatafree.recovery.solve import Constraints, solve_in_order
from tfdatafree.recovery.train import Images, Regression, regress
from tfdatafree.recovery.write_back import write_back
from tfdatafree.report.assemble import Change

_MOST_PER_BATCH = 32
# Bytes that the activations of one batch may take. Gradients and workspace take about twice as much in addition.
_BATCH_BYTES = 2**29
# Bytes that the largest activation of the images that layers are solved on may take. About five such are in memory.
_SOLVE_BYTES = 2**29


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What `feature_regression` returns.

    Attributes:
        model: The student with new weights, built as it was.
        compressed: If the student was the result of a quantizing `compress`: that result with the new weights. Activations
            keep their grids, and weights keep their bits. `.tflite` is the file, `.model` is `model`. None for any other
            student, and if `grids` were given. None also if no file could be written; `kept` then says why.
        before, after: Output Discrepancy to the teacher on the held-out images; after <= before.
        loss: Loss of each step on the images that it trained on; block after block in block-wise mode.
        steps: Block (or "network") -> the step whose weights were taken; 0: no step was better than the start.
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
        student: The teacher with changed weights: layers are compared by name. BatchNorms may be folded, and gradients pass
            Quantization layers (of `Compressed.model`) straight through. If it is a `Compressed`, the teacher's channels are
            scaled by its `channel_scales` before they are compared.
        teacher: The float model.
        images: Real values (n, *shape); a list or a dict by name for several inputs; or what `generate_images` returned,
            e.g. with n=256, statistics="set", batch_size=32. A quarter is held out. For a model with one input, images may
            have another size than the input if its layers work at that size. Smaller images take less time and memory.
        mode: "network": trains all layers at once. "blocks": trains block after block, cut where a single tensor passes on;
            each block reads the outputs of the trained blocks before it. This needs the memory of one block only. It recovers
            less after heavy pruning; try it where little is lost.
        masks: Layer name -> bool in its kernel's shape, False for weights that stay zero. None: zeros of the student stay
            zero, except in integer kernels of a `Compressed` that was not pruned. {}: no zero has to stay.
        grids: Layer name -> grid that its kernel stays on. None: the `weight_grids` of a `Compressed`. Their scales may change;
            `Recovered.compressed.weight_grids` has the new ones. {}: no grids.
        steps: Steps of Adam (per block in block-wise mode). 0: layers are only solved, in a small part of the time.
        learning_rate: Length of the first step, as a part of the rms of what it changes, times the discrepancy at the start.
            It decays to 0 by a cosine.
        batch_size: Images per step; None: 32, or as many as memory allows.
        reestimate: Move the BatchNorms' statistics first, by as much as the student's layers moved.
        solve: Then solve for each layer in order, by least squares. Where little is lost, this recovers most of what can be
            recovered. Kernels on grids are rounded again.
        flip: In network mode, mirror half of the images at random, and move all by up to an eighth of their size.
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
    started = time.perf_counter()
    problem = pose(student, teacher, images, masks=masks, grids=grids, seed=seed)
    options = Regression(
        steps=steps,
        learning_rate=learning_rate,
        batch_size=_batch_size(problem.student) if batch_size is None else batch_size,
        flip=flip and mode == "network",
        seed=seed,
    )
    candidates = [(problem.student, problem.grids)]  # each made from the one before it
    if reestimate:
        candidates.append((_reestimate(problem), problem.grids))
    if solve:
        candidates.append(_solve(problem, candidates[-1][0], seed))
    training = _train(problem, *candidates[-1], options, mode, verbose)
    if any(training.steps.values()):
        candidates.append((training.graph, candidates[-1][1]))
    judge = Judge(problem)
    discrepancies = [judge.discrepancy(graph) for graph, _ in candidates]
    before, after = discrepancies[0], min(discrepancies)
    best, new_grids = candidates[max(at for at, value in enumerate(discrepancies) if value == after)]
    best_steps = training.steps if best is training.graph else dict.fromkeys(training.steps, 0)
    how = "trained" if steps else "solved"
    note = f"{how} on {len(problem.inputs[0])} images: Output Discrepancy {before:.4g} -> {after:.4g} on those held out"
    written = write_back(
        student,
        problem,
        best,
        grids=new_grids,
        change=Change("feature regression", note, time.perf_counter() - started),
    )
    return Recovered(
        model=written.model,
        compressed=written.compressed,
        before=before,
        after=after,
        loss=training.loss,
        steps=best_steps,
        kept=problem.reasons | training.reasons | written.reasons,
    )


def _reestimate(problem: Problem) -> Graph:
    return reestimate_batchnorm(problem.student, problem.teacher, one_batch(problem.student, problem.inputs))


def _solve(problem: Problem, graph: Graph, seed: int) -> tuple[Graph, dict[str, Quantizer]]:
    batch = one_batch(problem.student, problem.images.student, _SOLVE_BYTES)
    constraints = Constraints(
        masks=problem.masks,
        grids=problem.grids,
        latent=kernels_before_rounding(graph, problem.teacher, problem.grids),
        fixed=problem.fixed,
        new_scales=bool(problem.file_grids),
    )
    return solve_in_order(graph, problem.teacher, problem.pairs, (batch, batch), constraints, seed=seed)


# Training ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Training:
    """A trained graph, with the `steps` and the `loss` of `Recovered`, and why layers were not trained."""

    graph: Graph
    steps: dict[str, int]
    loss: np.ndarray
    reasons: dict[str, str]


def _train(
    problem: Problem, graph: Graph, grids: Mapping[str, Quantizer], options: Regression, mode: str, verbose: int
) -> _Training:
    """Trains `graph`, all at once or block after block."""
    blocks = [(graph, problem.teacher)]
    if mode == "blocks":
        blocks = cut_into_blocks(graph, problem.teacher, problem.pairs)
    shared = {key for key in graph.layers if sum(key in block.layers for block, _ in blocks) > 1}
    reasons = {key: "called in several blocks" for key in sorted(shared) if graph.layers[key].weights}
    untrained = shared | problem.fixed
    progress = Progress(options.steps * len(blocks), verbose if options.steps else 0)
    losses: list[float] = []

    def on_step(loss: float) -> None:
        losses.append(loss)
        progress.step(f"feature regression, loss {loss:.4f}")

    images, steps = problem.images, {}
    try:
        for block, target in blocks:
            trained, step = regress(
                block,
                target,
                images,
                options,
                Bounds(problem.masks, grids, lambda key: key not in untrained),
                on_step=on_step,
            )
            steps["network" if len(blocks) == 1 else block.outputs[0]] = step
            graph = dataclasses.replace(graph, layers=graph.layers | trained.layers)
            if len(blocks) > 1:
                images = _pass_on(images, trained, target, options.batch_size)
    finally:
        progress.close()
    return _Training(graph, steps, np.array(losses, np.float32), reasons)


def _batch_size(graph: Graph) -> int:
    elements = sum(np.prod([size or 1 for size in spec.shape[1:]]) for spec in graph.specs.values())
    return int(min(_MOST_PER_BATCH, max(1, _BATCH_BYTES // (4 * elements))))


def _pass_on(images: Images, student: Graph, teacher: Graph, batch_size: int) -> Images:
    """What the next block reads: the outputs of this one."""
    if student.outputs != teacher.outputs or len(student.outputs) != 1:
        return images  # this is the last block
    return Images(
        student.run_in_batches(images.student, batch_size),
        teacher.run_in_batches(images.teacher, batch_size),
        student.run_in_batches(images.held_out_student, batch_size),
        teacher.run_in_batches(images.held_out_teacher, batch_size),
    )
