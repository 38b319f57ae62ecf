"""What a network is to learn from the one that it came from: the two graphs side by side, the images, what must stay."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.form import canonical_form
from tfdatafree.canonical.resize import resize
from tfdatafree.canonical.separate import separate
from tfdatafree.compressed import Compressed
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.given import take_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import from_output_last, kernel_of, layout_of, output_last
from tfdatafree.model.load import load
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.metrics import output_discrepancy
from tfdatafree.preconditioning.absorb_bias import absorb_biases
from tfdatafree.preconditioning.scale_channels import scale_alike
from tfdatafree.recovery.train import Images, feature_pairs, zeros_of
from tfdatafree.targets.registry import GENERIC

# Part of the images that judges and does not train.
_HELD_OUT = 0.25


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A student, its teacher and images, checked.

    Attributes:
        source, whole: Graphs of the student's model and of the teacher's, as they are.
        student, teacher: The same separated, for inputs of the images' size; the teacher's channels scaled as the student's.
        pairs: Layer node -> (tensor of the student, of the teacher) that are compared.
        kept: Layer -> why it is not compared, or not trained.
        inputs: All images, one array (n, ...) per graph input.
        images: The same, parted: what trains, and what judges.
        masks: Layer -> bool in its kernel's shape, False for weights that stay zero.
        grids: Layer -> grid that its kernel is kept on.
        written: Layer -> grid of its kernel in the file of a `Compressed` that is to be written anew; None for kernels whose
            steps do not run along a single axis, which stay as they are. Empty where no file is.
    """

    source: Graph
    whole: Graph
    student: Graph
    teacher: Graph
    pairs: dict[str, tuple[str, str]]
    kept: dict[str, str]
    inputs: list[np.ndarray]
    images: Images
    masks: dict[str, np.ndarray]
    grids: dict[str, Quantizer]
    written: Mapping[str, Quantizer | None]

    @property
    def fixed(self) -> set[str]:
        """Layers whose kernels stay as they are."""
        return {key for key, grid in self.written.items() if grid is None}


def pose(
    student: "keras.Model | Compressed",
    teacher: keras.Model,
    images: Any,
    *,
    masks: Mapping[str, np.ndarray] | None,
    grids: Mapping[str, Quantizer] | None,
    seed: int,
) -> Problem:
    """The problem that `feature_regression` is given; for its arguments, and what it raises, see there."""
    source = Graph.from_keras(student.model if isinstance(student, Compressed) else load(student))
    written: Mapping[str, Quantizer | None] = {}
    unpruned: Collection[str] = ()
    if isinstance(student, Compressed):
        written = {} if grids is not None else student.weight_grids
        unpruned = student.weight_grids if student.recipe.prune is None else ()
    whole = Graph.from_keras(load(teacher))
    begin = separate(source).graph
    reference = _alike(whole, student) if isinstance(student, Compressed) else separate(whole).graph
    size = _other_size(images, begin)
    if size is not None:
        begin, reference = resize(begin, size).graph, resize(reference, size).graph
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
    order = np.random.default_rng(seed).permutation(len(inputs[0]))
    held = max(1, round(_HELD_OUT * len(order)))
    train, judge = ([array[rows] for array in inputs] for rows in (order[held:], order[:held]))
    apart = sorted(key for key, grid in written.items() if grid is None)
    return Problem(
        source=source,
        whole=whole,
        student=begin,
        teacher=reference,
        pairs=pairs,
        kept=kept | dict.fromkeys(apart, "its kernel's steps do not run along a single axis"),
        inputs=inputs,
        images=Images(train, train, judge, judge),
        masks=masks,
        grids=_checked(grids, begin, "grids", None),
        written=written,
    )


class Judge:
    """Tells how far a student is from the teacher on the images held out."""

    def __init__(self, problem: Problem):
        self._images = problem.images
        self._wanted = problem.teacher.run_in_batches(self._images.held_teacher)

    def discrepancy(self, graph: Graph) -> float:
        """Output Discrepancy, mean over the outputs; inf where the student's outputs are not finite."""
        found = graph.run_in_batches(self._images.held_student)
        distances = [output_discrepancy(a, b) for a, b in zip(found, self._wanted, strict=True)]
        return float(np.mean(distances)) if np.isfinite(distances).all() else np.inf


def kernels_before_rounding(student: Graph, teacher: Graph, grids: Mapping[str, Quantizer]) -> dict[str, np.ndarray]:
    """Layer -> the kernel that was put on its grid: the teacher's, its BatchNorms folded, in the output channels where it is
    less than a step away, as what was rounded is; elsewhere the student's own."""
    folded, found = fold(teacher).graph, {}
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


def _alike(teacher: Graph, student: Compressed) -> Graph:
    """The teacher, with its channels scaled, and its high biases moved, as those of the student were."""
    target = GENERIC if student.decision is None else student.decision.target
    form = canonical_form(teacher, pooled_slices=target.pooled_slices).graph
    scaled = scale_alike(form, student.channel_scales).graph
    return absorb_biases(scaled).graph if student.recipe.absorb_bias else scaled


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
