"""reconstruct(): a quantized network learns its roundings and activation scales, block by block, from the float network.

    pose the problem -> blocks -> for each block: train, judge, keep or leave -> judge -> Keras model, integer file

blocks.py cuts the network, parts.py says what moves, and step.py trains it. A block reads what the blocks before it give after
their own training, so that it also corrects a part of their error.
"""

import dataclasses
import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.compressed import Compressed
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.limits import require_seed
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of
from tfdatafree.model.layer import Layer
from tfdatafree.model.quantizer_layer import Quantization
from tfdatafree.progress import Progress
from tfdatafree.recipe.check import require_whole
from tfdatafree.recovery.activation_grids import trained_grids
from tfdatafree.recovery.parameters import feature_sizes
from tfdatafree.recovery.problem import Judge, Problem, pose
from tfdatafree.recovery.reconstruction.blocks import Block, find_blocks
from tfdatafree.recovery.reconstruction.parts import Parts, Rounded
from tfdatafree.recovery.reconstruction.step import State, Step, fixed_tensors, mean_error
from tfdatafree.recovery.write_back import write_back
from tfdatafree.report.assemble import Change

STEPS = 1000
_MOST_PER_BATCH = 32
# Bytes that the tensors of one batch may take in one block. Gradients take about twice as much in addition.
_BATCH_BYTES = 2**29
# Bytes that what passes between two blocks may take, for all inputs.
_STORED_BYTES = 2**30
_FLOAT_BYTES = 4
# Streams of random numbers.
_ORDER, _START = 0, 1


@dataclass(frozen=True)
class BlockResult:
    """What became of one block.

    Attributes:
        outputs: Tensors that it writes.
        layers: Number of its layers with kernels that were trained.
        before, after: Error of its results on held-out inputs, as a part of their mean square; after <= before.
        kept: Whether what it learned was kept.
    """

    outputs: tuple[str, ...]
    layers: int
    before: float
    after: float
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Reconstructed:
    """What `reconstruct` returns.

    Attributes:
        model: The student with new weights and activation scales.
        compressed: The student's `Compressed` with the new weights and scales; `.tflite` is its file. None if no file could be
            written; `kept` then says why.
        before, after: Output Discrepancy to the teacher on the held-out images; after <= before.
        blocks: What became of each block, in order.
        kept: Layer -> why it was not compared or trained.
    """

    model: keras.Model
    compressed: Compressed | None
    before: float
    after: float
    blocks: tuple[BlockResult, ...]
    kept: dict[str, str]


def reconstruct(
    student: Compressed,
    teacher: keras.Model,
    images: "np.ndarray | list[np.ndarray] | Mapping[str, np.ndarray] | GeneratedImages",
    *,
    steps: int = STEPS,
    batch_size: int | None = None,
    seed: int = 0,
    verbose: int = 1,
) -> Reconstructed:
    """Learns roundings of weights and scales of activations, so that each block gives the float block's results.

    Blocks are residual blocks, or a few layers of a chain. Every weight becomes one of the two integers beside its float value,
    or moves by at most one where that is not known. Zeros of a pruned network stay zero. Biases and the scales of kernels and
    activations are learned, too. In training, a random half of the activations are not rounded, and a random half of the
    values that a block reads are the teacher's. What a block learned is kept where its error on held-out images is smaller.

    Args:
        student: What `compress` returned for a recipe that quantizes.
        teacher: The float model.
        images: As for `feature_regression`. A quarter is held out. Fewer are used where what passes between two blocks would
            take more than a gigabyte.
        steps: Steps of Adam for each block.
        batch_size: Images per step; None: 32, or as many as memory allows.
        seed: The same seed gives the same bytes.
        verbose: 0 hides the progress bar.

    Guarantees that the Output Discrepancy on the held-out images is not larger than before.

    Raises:
        ValueError: An option is wrong; too few images; the student is no quantized `Compressed`.
        UnsupportedModelError, LoadError: As for `compress`.
    Source: Li et al. 2021 (BRECQ), Wei et al. 2022 (QDrop), Nagel et al. 2020 (AdaRound), Esser et al. 2020 (LSQ).
    """
    started, seed = time.perf_counter(), require_seed(seed)
    require_whole("steps", steps, 1)
    if batch_size is not None:
        require_whole("batch_size", batch_size, 1)
    if not isinstance(student, Compressed) or student.decision is None:
        raise ValueError(
            f"the student is {'in float' if isinstance(student, Compressed) else f'a {type(student).__name__}'}; give what "
            "compress() returned for a recipe with quantize=Quantize(...)."
        )
    problem = pose(student, teacher, images, masks=None, grids=None, seed=seed)
    run = _Run(student, problem, _Training(steps, batch_size, seed))
    progress = Progress(max(1, len(run.blocks)), verbose)
    results = []
    try:
        for block in run.blocks:
            results.append(run.reconstruct(block))
            progress.step(f"reconstruct {block.student.outputs[0]}")
    finally:
        progress.close()
    judge = Judge(problem)
    before, found = judge.discrepancy(problem.student), judge.discrepancy(run.network.graph)
    kept = dict(problem.reasons)
    if found >= before:
        kept[problem.student_source.name] = f"Output Discrepancy would be {found:.4g}, and was {before:.4g}"
        return Reconstructed(
            model=student.model, compressed=student, before=before, after=before, blocks=tuple(results), kept=kept
        )
    taken = sum(result.kept for result in results)
    note = (
        f"{taken} of {len(results)} blocks on {run.images} images: Output Discrepancy {before:.4g} -> {found:.4g} on those "
        "held out"
    )
    written = write_back(
        student,
        problem,
        run.network.graph,
        grids=run.network.grids,
        change=Change("reconstruction", note, time.perf_counter() - started),
        ranges=run.network.activations.ranges(run.scales),
    )
    return Reconstructed(
        model=written.model,
        compressed=written.compressed,
        before=before,
        after=found,
        blocks=tuple(results),
        kept=kept | written.reasons,
    )


@dataclass(frozen=True)
class _Training:
    """How each block is trained."""

    steps: int
    batch_size: int | None
    seed: int


class _Run:
    """The blocks of one network, what has been learned so far, and what passes on to the next block.

    Attributes:
        blocks: In order of execution.
        network: The student with what was kept so far.
        scales: Group of activations -> its present scale.
        images: Number of images, those that judge included.
    """

    def __init__(self, student: Compressed, problem: Problem, training: _Training):
        teacher = fold(problem.teacher).graph
        self._training, self._steps = training, dict[Hashable, Step]()
        self.blocks = find_blocks(problem.student, teacher)
        pairs = list(problem.pairs.values())
        self.network = Rounded(
            graph=problem.student.copy(),
            latent={key: kernel_of(layer) for key, layer in teacher.layers.items() if find_layout(layer) is not None},
            masks=problem.masks,
            grids=dict(problem.grids),
            activations=trained_grids(student),
            sizes=feature_sizes(problem.student, problem.teacher, pairs, problem.images.held_out_teacher),
        )
        self.scales = {
            group: np.asarray(grid.scale, np.float32) for group, grid in self.network.activations.grid_of.items()
        }
        self._chosen: set[str] = set()
        most = max(2, _STORED_BYTES // max((_passing_bytes(block) for block in self.blocks), default=1))
        train, judge = problem.images.student, problem.images.held_out_student
        held_out = max(1, min(len(judge[0]), round(most * len(judge[0]) / (len(judge[0]) + len(train[0])))))
        train, judge = [array[: max(1, most - held_out)] for array in train], [array[:held_out] for array in judge]
        inputs = [np.concatenate(arrays) for arrays in zip(train, judge, strict=True)]
        self.images, self._trained = len(inputs[0]), len(train[0])
        # What the student and the teacher have computed up to the present block, by the tensors' names in each.
        self._own = dict(zip(problem.student.inputs, inputs, strict=True))
        self._floats = dict(zip(teacher.inputs, inputs, strict=True))

    def reconstruct(self, block: Block) -> BlockResult:
        """Trains one block, and keeps what it learned where it is better."""
        given, block = block, dataclasses.replace(block, student=self._present(block.student))
        own = [self._own[tensor] for tensor in block.student.inputs]
        floats = [self._floats[tensor] for tensor in block.teacher.inputs]
        of_student, of_teacher = (list(column) for column in zip(*block.compared, strict=True))
        teacher_values = _run(block.teacher, floats, of_teacher)
        targets = [teacher_values[tensor] for tensor in of_teacher]
        values = _run(block.student, own, of_student)
        parts = Parts(block, self.network, self._chosen, np.random.default_rng([self._training.seed, _START]))
        before, best = self._error(values, of_student, targets), values
        after = before
        on_train = self._error(values, of_student, targets, held_out=False)
        if parts.kernels and 0 < on_train < np.inf:
            state = self._train(parts, own, floats, targets, on_train)
            network, scales = self._with(parts, state)
            graph = dataclasses.replace(
                block.student, layers={key: network.graph.layers[key] for key in block.student.layers}
            )
            values = _run(graph, own, of_student)
            found = self._error(values, of_student, targets)
            if found < before:
                self.network, self.scales, best, after = network, scales, values, found
        self._chosen |= {
            self.network.activations.group_of.get(n.inputs[0], "") for n in block.student.nodes if n.inputs
        }
        self._own |= {tensor: best[tensor] for tensor in block.student.outputs}
        self._floats |= {tensor: teacher_values[tensor] for tensor in block.teacher.outputs}
        self._forget(given)
        return BlockResult(tuple(block.student.outputs), len(parts.kernels), before, after, after < before)

    def _present(self, part: Graph) -> Graph:
        """The part of the student as it is by now: earlier blocks may have chosen scales of its activations."""
        return dataclasses.replace(part, layers={key: self.network.graph.layers[key] for key in part.layers})

    def _train(self, parts: Parts, own: Sequence, floats: Sequence, targets: Sequence, error: float) -> State:
        training, state, fixed = self._training, State.of(parts), fixed_tensors(parts)
        if parts.shape not in self._steps:
            self._steps[parts.shape] = Step(parts)
        step = self._steps[parts.shape]
        size = min(self._trained, training.batch_size or _batch_size(parts.block.student))
        random, order = np.random.default_rng([training.seed, _ORDER]), np.empty(0, np.intp)
        for at in range(training.steps):
            while len(order) < size:
                order = np.concatenate([order, random.permutation(self._trained)])
            rows, order = order[:size], order[size:]
            own_rows, float_rows, wanted = ([array[rows] for array in arrays] for arrays in (own, floats, targets))
            step(state, fixed, (own_rows, float_rows, wanted), (training.seed % 2**30, at, training.steps), error)
        return state

    def _with(self, parts: Parts, state: State) -> tuple[Rounded, dict[str, np.ndarray]]:
        """The network, and its scales of activations, with what one block learned."""
        learned = state.result()
        (layers, grids), chosen = parts.result(learned), parts.activation_scales(learned)
        graph, groups = self.network.graph.copy(), self.network.activations.group_of
        graph.layers |= layers
        for node in graph.nodes:
            operation = graph.operation_of(node)
            if isinstance(operation, Quantization) and groups.get(node.inputs[0]) in chosen:
                old, scale = operation.quantizer, chosen[groups[node.inputs[0]]]
                layer = Quantization(scale, int(old.zero_point), old.bits, name=operation.name, dtype="float32")
                graph.layers[node.layer] = Layer(layer)
        network = dataclasses.replace(self.network, graph=graph, grids={**self.network.grids, **grids})
        return network, {**self.scales, **{group: np.asarray(scale, np.float32) for group, scale in chosen.items()}}

    def _error(
        self, values: Mapping[str, np.ndarray], tensors: list[str], targets: list[np.ndarray], *, held_out: bool = True
    ) -> float:
        rows = slice(self._trained, None) if held_out else slice(self._trained)
        errors = [float(mean_error(values[t][rows], y[rows])) for t, y in zip(tensors, targets, strict=True)]
        return sum(errors) if np.isfinite(errors).all() else np.inf

    def _forget(self, done: Block) -> None:
        """Drops what no later block reads."""
        later = self.blocks[self.blocks.index(done) + 1 :]
        read = {tensor for block in later for tensor in block.student.inputs}
        read_by_teacher = {tensor for block in later for tensor in block.teacher.inputs}
        self._own = {tensor: array for tensor, array in self._own.items() if tensor in read}
        self._floats = {tensor: array for tensor, array in self._floats.items() if tensor in read_by_teacher}


def _run(graph: Graph, inputs: Sequence[np.ndarray], tensors: list[str]) -> dict[str, np.ndarray]:
    """The outputs of a block and these tensors of it, for all inputs."""
    wanted = list(dict.fromkeys([*graph.outputs, *tensors]))
    part = dataclasses.replace(graph, outputs=wanted)
    return dict(zip(wanted, part.run_in_batches(inputs), strict=True))


def _elements(graph: Graph, tensors: Sequence[str]) -> int:
    return sum(math.prod(size or 1 for size in graph.specs[tensor].shape[1:]) for tensor in tensors)


def _passing_bytes(block: Block) -> int:
    """Bytes that one image takes between blocks, in the student and in the teacher."""
    passing = [*block.student.inputs, *block.student.outputs, *(tensor for tensor, _ in block.compared)]
    return 2 * _FLOAT_BYTES * _elements(block.student, passing)


def _batch_size(graph: Graph) -> int:
    tensors = [*graph.inputs, *(tensor for node in graph.nodes for tensor in node.outputs)]
    return int(min(_MOST_PER_BATCH, max(1, _BATCH_BYTES // (_FLOAT_BYTES * _elements(graph, tensors)))))
