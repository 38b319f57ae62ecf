"""Poses the problem of recovery: a student and its teacher as comparable graphs, images, and what must stay as it is."""

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
from tfdatafree.model.kernels import find_layout, from_output_last, kernel_of, layout_of, output_last
from tfdatafree.model.load import load
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.metrics import output_discrepancy
from tfdatafree.preconditioning.absorb_bias import absorb_biases
from tfdatafree.preconditioning.scale_channels import scale_alike
from tfdatafree.recovery.features import feature_pairs, nonzero_masks
from tfdatafree.recovery.train import Images
from tfdatafree.targets.registry import GENERIC

# Part of the images that is held out to judge.
_HELD_OUT = 0.25


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A student, its teacher and images, checked.

    Attributes:
        student_source, teacher_source: Graphs of the two models as they are.
        student, teacher: The same separated, for inputs of the images' size. The teacher's channels are scaled as the student's.
        pairs: Layer node -> (tensor of the student, of the teacher) that are compared.
        reasons: Layer -> why it is not compared, or not trained.
        inputs: All images, one array (n, ...) per graph input.
        images: The same images, split into those that train and those that judge.
        masks: Layer -> mask of its kernel.
        grids: Layer -> grid that its kernel stays on.
        file_grids: Layer -> grid of its kernel in the file of a `Compressed`, which will be written again. None for kernels
            whose scales do not run along a single axis; these do not change. Empty where there is no file.
    """

    student_source: Graph
    teacher_source: Graph
    student: Graph
    teacher: Graph
    pairs: dict[str, tuple[str, str]]
    reasons: dict[str, str]
    inputs: list[np.ndarray]
    images: Images
    masks: dict[str, np.ndarray]
    grids: dict[str, Quantizer]
    file_grids: Mapping[str, Quantizer | None]

    @property
    def fixed(self) -> set[str]:
        """Layers whose kernels stay as they are."""
        return {key for key, grid in self.file_grids.items() if grid is None}


def pose(
    student: "keras.Model | Compressed",
    teacher: keras.Model,
    images: Any,
    *,
    masks: Mapping[str, np.ndarray] | None,
    grids: Mapping[str, Quantizer] | None,
    seed: int,
) -> Problem:
    """The problem that `feature_regression` solves. Its docstring describes the arguments and the errors."""
    student_source = Graph.from_keras(student.model if isinstance(student, Compressed) else load(student))
    file_grids: Mapping[str, Quantizer | None] = {}
    unpruned: Collection[str] = ()
    if isinstance(student, Compressed):
        file_grids = {} if grids is not None else student.weight_grids
        unpruned = student.weight_grids if student.recipe.prune is None else ()
    teacher_source = Graph.from_keras(load(teacher))
    student_graph = separate(student_source).graph
    teacher_graph = (
        _scale_alike(teacher_source, student) if isinstance(student, Compressed) else separate(teacher_source).graph
    )
    image_shape = _other_shape(images, student_graph)
    if image_shape is not None:
        student_graph, teacher_graph = (
            resize(student_graph, image_shape).graph,
            resize(teacher_graph, image_shape).graph,
        )
    inputs = _take_images(images, student_graph)
    pairs, reasons = feature_pairs(student_graph, teacher_graph)
    if not pairs:
        raise ValueError(
            f"no layer of '{student_source.name}' has a counterpart in '{teacher_graph.name}': layers are compared by name; "
            "give the teacher itself with changed weights as the student."
        )
    if masks is None:
        masks = {key: mask for key, mask in nonzero_masks(student_graph).items() if key not in unpruned}
    else:
        masks = _check_layers(masks, student_graph, "masks", np.shape)
    grids = {key: grid for key, grid in file_grids.items() if grid is not None} if grids is None else grids
    order = np.random.default_rng(seed).permutation(len(inputs[0]))
    held_out = max(1, round(_HELD_OUT * len(order)))
    train, judge = ([array[rows] for array in inputs] for rows in (order[held_out:], order[:held_out]))
    without_grid = sorted(key for key, grid in file_grids.items() if grid is None)
    return Problem(
        student_source=student_source,
        teacher_source=teacher_source,
        student=student_graph,
        teacher=teacher_graph,
        pairs=pairs,
        reasons=reasons | dict.fromkeys(without_grid, "its kernel's scales do not run along a single axis"),
        inputs=inputs,
        images=Images(train, train, judge, judge),
        masks=masks,
        grids=_check_layers(grids, student_graph, "grids", None),
        file_grids=file_grids,
    )


class Judge:
    """Measures how far a student is from the teacher on the held-out images."""

    def __init__(self, problem: Problem):
        self._images = problem.images
        self._targets = problem.teacher.run_in_batches(self._images.held_out_teacher)

    def discrepancy(self, graph: Graph) -> float:
        """Output Discrepancy, mean over the outputs; inf where the student's outputs are not finite."""
        outputs = graph.run_in_batches(self._images.held_out_student)
        distances = [output_discrepancy(a, b) for a, b in zip(outputs, self._targets, strict=True)]
        return float(np.mean(distances)) if np.isfinite(distances).all() else np.inf


def kernels_before_rounding(student: Graph, teacher: Graph, grids: Mapping[str, Quantizer]) -> dict[str, np.ndarray]:
    """Layer -> the kernel that was rounded to its grid, as far as it is known.

    Output channels in which the folded teacher's kernel differs by less than the scale come from the teacher. All others are
    the student's own.
    """
    folded, kernels = fold(teacher).graph, {}
    for key, grid in grids.items():
        if key not in folded.layers or find_layout(folded.layers[key]) is None:
            continue
        layout = layout_of(student.layers[key])
        rounded, former = (kernel_of(graph.layers[key]) for graph in (student, folded))
        if rounded.shape == former.shape:
            changes = output_last((rounded - former) / _broadcast_scale(grid, rounded.ndim), layout)
            near = np.sqrt(np.mean(np.square(changes), axis=0)) < 1
            matrix = np.where(near, output_last(former, layout), output_last(rounded, layout))
            kernels[key] = from_output_last(matrix, rounded.shape, layout)
    return kernels


def _broadcast_scale(grid: Quantizer, rank: int) -> np.ndarray:
    """The grid's scale in a shape that broadcasts with an array of that rank."""
    shape = [1] * rank
    if grid.channel_axis is not None:
        shape[grid.channel_axis] = -1
    return np.reshape(grid.scale, shape)


def _scale_alike(teacher: Graph, student: Compressed) -> Graph:
    """The teacher with its channels scaled, and its high biases moved, as compression did with those of the student."""
    target = GENERIC if student.decision is None else student.decision.target
    form = canonical_form(teacher, pooled_slices=target.pooled_slices).graph
    scaled = scale_alike(form, student.channel_scales).graph
    return absorb_biases(scaled).graph if student.recipe.absorb_bias else scaled


def _other_shape(images: Any, graph: Graph) -> tuple[int, ...] | None:
    """Shape of the images without the batch, where it differs only in size from that of the model's one input."""
    arrays = images.inputs if isinstance(images, GeneratedImages) else images
    array = next(iter(arrays.values())) if isinstance(arrays, Mapping) and len(arrays) == 1 else arrays
    shape, input_shape = tuple(getattr(array, "shape", ()))[1:], graph.specs[graph.inputs[0]].shape[1:]
    alike = len(graph.inputs) == 1 and 1 < len(shape) == len(input_shape) and shape[-1] == input_shape[-1]
    return shape if alike and shape != input_shape else None


def _take_images(images: Any, graph: Graph) -> list[np.ndarray]:
    if isinstance(images, GeneratedImages):
        images = dict(images.inputs)
    inputs = take_inputs(images, graph, most=None, source="images")
    if len(inputs[0]) < 2:
        raise ValueError(f"images are {len(inputs[0])}; give at least 2 (better 128): some train, and some judge.")
    return inputs


def _check_layers(values: Mapping[str, Any], graph: Graph, name: str, shape: Callable | None) -> dict[str, Any]:
    """`values` by layer, as masks where `shape` is given. Raises ValueError where a layer or a shape is wrong."""
    known = nonzero_masks(graph)
    if unknown := [key for key in values if key not in known]:
        raise ValueError(f"{name} are for {', '.join(unknown)}; the layers with kernels are {', '.join(known)}.")
    for key, value in values.items():
        if shape is not None and shape(value) != known[key].shape:
            raise ValueError(f"{name} for '{key}' have shape {shape(value)}; the kernel's is {known[key].shape}.")
    return {key: np.asarray(value, bool) if shape is not None else value for key, value in values.items()}
