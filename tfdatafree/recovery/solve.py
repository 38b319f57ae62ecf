"""Solves the layers of a changed network for the teacher's outputs by least squares, in order of execution.

    minimise over V   E | (t - E t) - V^T (x - E x) |^2  +  h |V - W|^2,      h = damping * mean(diag cov x)

x is the layer's input in the student, whose earlier layers are already solved. t is the layer's output in the teacher. W are its
weights, or for rounded weights, those before rounding, if they are known. So each layer also corrects a part of the error of the
layers before it. With H = cov x + h I and M = W + H^-1 cov(x, t - W^T x) the sum is
tr (V - M)^T H (V - M) and a constant. So `second_moment.refit` for M gives the remaining weights of a pruned kernel.
A kernel on a grid is M rounded with error feedback. Then

    b = E t - V^T E x

so that each output's mean is the teacher's on these inputs. If a BatchNorm follows, its mean moves instead.

Where the output is added to another tensor, t is the teacher's sum less that tensor as it is now. So the last layer of a
residual block also corrects the error of the other branch. Grids may get new scales, too (`descent.py`). h keeps the weights
from overfitting the few generated images. Along directions in which these hardly vary, weights stay as they were. With few
patches per input, a kernel on a grid keeps its weights, and only its bias is solved for.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from scipy import linalg

from tfdatafree.measuring.patches import patches_at
from tfdatafree.model.batchnorm import scale_and_shift
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.model.kernels import from_output_last, kernel_of, layout_of, output_last, with_kernel
from tfdatafree.model.quantizer_layer import Quantization
from tfdatafree.numerics.affine import Quantizer, weight_quantizer
from tfdatafree.numerics.second_moment import by_group, damped, from_groups, refit, with_doubt
from tfdatafree.quantization.descent import descend
from tfdatafree.quantization.feedback import round_with_feedback
from tfdatafree.quantization.weight_scales import search_scale

# Patches per layer: enough for the covariance of a wide kernel's inputs, and at least so many per input.
_PATCHES, _PER_INPUT = 2**14, 16
# Kernels on grids with fewer different patches per input keep their weights. Rounding affects all directions, also those that
# the patches do not show.
_FEWEST_PER_INPUT = 2
# Damping where a kernel is rounded to M. It is small, because the full damping has already kept M near W where images are few.
_ROUNDING_DAMPING = 0.3
# Values of patches that are in memory at once.
_MOST_VALUES = 2**24
# A BatchNorm channel is off if its factor is smaller than this part of the largest: nothing is known of what it reads.
_OFF = 1e-4
# An output whose weights would grow by more than this factor keeps them. It reads next to nothing, and least squares would
# fit the noise of these images.
_MOST_GROWTH = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
    """What holds for the kernels that are solved for, by layer.

    Attributes:
        masks: Layer -> mask of its kernel.
        grids: Layer -> grid of its kernel.
        latent: Layer -> its kernel before it was rounded to its grid.
        fixed: Layers that do not change. Neither do layers called twice and transposed convolutions.
        new_scales: Whether grids may get new scales.
    """

    masks: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    grids: Mapping[str, Quantizer] = dataclasses.field(default_factory=dict)
    latent: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    fixed: Collection[str] = ()
    new_scales: bool = False


def solve_in_order(
    student: Graph,
    teacher: Graph,
    pairs: Mapping[str, tuple[str, str]],
    inputs: tuple[Sequence[Any], Sequence[Any]],
    constraints: Constraints,
    *,
    seed: int = 0,
) -> tuple[Graph, dict[str, Quantizer]]:
    """Solves for the kernels and biases of dense and convolution layers: (the new student, the new grids of its kernels).

    Args:
        student, teacher: Separated graphs.
        pairs: Node -> (tensor of the student, of the teacher) that shall be equal: the node's output, or that of the BatchNorm
            right after it.
        inputs: One batch, as the student and as the teacher reads it.
    """
    student_inputs, teacher_inputs = inputs
    solved, calls, random = student.copy(), student.calls(), np.random.default_rng(seed)
    readers, grids = student.consumers(), dict(constraints.grids)

    def compared_batchnorm(node: Node) -> str | None:
        """The BatchNorm whose output is compared instead of the node's own."""
        return None if pairs[node.name][0] == node.output else readers[node.output][0].layer

    def can_be_solved(node: Node) -> bool:
        if node.name not in pairs or calls[node.layer] > 1 or node.layer in constraints.fixed:
            return False
        reader = compared_batchnorm(node)
        if reader is not None and not _on_channels(solved.layers[reader], len(student.specs[node.output].shape)):
            return False
        return layout_of(student.layer_of(node)).kind != "transpose"

    solvable = {node.name for node in student.nodes if can_be_solved(node)}
    sums = _find_sums(student, teacher, {name: pairs[name] for name in solvable})
    teacher_run = _TeacherRun(
        teacher, teacher_inputs, [sums[name][1] if name in sums else pairs[name][1] for name in solvable]
    )

    def target_of(name: str, live: Mapping[str, Any]) -> np.ndarray:
        if name not in sums:
            return teacher_run.value_of(pairs[name][1])
        other, total = sums[name]
        return teacher_run.value_of(total) - np.asarray(live[other])

    def call(node: Node, live: Mapping[str, Any]) -> tuple:
        if node.name in solvable:
            key, layer = node.layer, solved.layer_of(node)
            reader = compared_batchnorm(node)
            batchnorm = None if reader is None else solved.layers[reader]
            x = np.asarray(live[node.inputs[0]])
            result = _solve_layer(key, layer, batchnorm, x, target_of(node.name, live), constraints, random)
            solved.layers[key] = result.layer
            if reader is not None and result.batchnorm is not None:
                solved.layers[reader] = result.batchnorm
            if result.grid is not None:
                grids[key] = result.grid
        return solved.call(node, live)

    for _ in solved.walk(student_inputs, call):
        pass
    return solved, grids


def _on_channels(batchnorm: Layer, rank: int) -> bool:
    return batchnorm.operation.axis % rank == rank - 1


def _find_sums(student: Graph, teacher: Graph, pairs: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Node whose feature is added to a tensor that was written before -> (that tensor of the student, the teacher's sum)."""
    order = {tensor: at for at, node in enumerate(student.nodes) for tensor in node.outputs}
    places, sums = {node.name: at for at, node in enumerate(student.nodes)}, {}
    readers = student.consumers(), teacher.consumers()
    for name, features in pairs.items():
        student_sum, teacher_sum = (
            _sum_of(graph, read, tensor)
            for graph, read, tensor in zip((student, teacher), readers, features, strict=True)
        )
        if student_sum is None or teacher_sum is None:
            continue
        if order.get(student_sum[0], -1) < places[name]:
            sums[name] = (student_sum[0], teacher_sum[1])
    return sums


def _sum_of(graph: Graph, readers: Mapping[str, Sequence[Node]], tensor: str) -> tuple[str, str] | None:
    """(the tensor that `tensor`, or its rounded values, is added to, the sum); None where it has any other use."""
    while tensor not in graph.outputs and len(readers[tensor]) == 1:
        node = readers[tensor][0]
        operation = graph.operation_of(node)
        if isinstance(operation, keras.layers.Add) and len(set(node.inputs)) == 2 == len(node.inputs):
            other = node.inputs[1 - node.inputs.index(tensor)]
            same_shape = graph.specs[other].shape[1:] == graph.specs[tensor].shape[1:]
            return (other, node.output) if same_shape else None
        if not isinstance(operation, Quantization):
            return None
        tensor = node.output
    return None


class _TeacherRun:
    """Executes the teacher, each time as far as a value is needed."""

    def __init__(self, teacher: Graph, inputs: Sequence[Any], tensors: Sequence[str]):
        shortened = teacher.up_to(sorted(set(tensors)))
        shortened.outputs = []  # a walk keeps outputs until its end, but here each value is read once
        self._walk = shortened.walk(inputs)
        self._tensors, self._values = set(tensors), dict[str, np.ndarray]()

    def value_of(self, tensor: str) -> np.ndarray:
        """The value of a tensor, which is then forgotten."""
        while tensor not in self._values:
            node, live = next(self._walk)
            self._values |= {name: np.asarray(live[name]) for name in node.outputs if name in self._tensors}
        return self._values.pop(tensor)


@dataclasses.dataclass(frozen=True)
class _SolvedLayer:
    """A layer, the BatchNorm after it, if its output is compared, and the grid of its kernel, if it has one."""

    layer: Layer
    batchnorm: Layer | None
    grid: Quantizer | None


def _solve_layer(
    key: str,
    layer: Layer,
    batchnorm: Layer | None,
    x: np.ndarray,
    target: np.ndarray,
    constraints: Constraints,
    random: np.random.Generator,
) -> _SolvedLayer:
    """Layer and BatchNorm whose output for `x` is near `target`."""
    kernel_mask, grid, latent = constraints.masks.get(key), constraints.grids.get(key), constraints.latent.get(key)
    layout, kernel, bias = layout_of(layer), kernel_of(layer), layer.weight("bias")
    old = output_last(kernel, layout).astype(np.float64)
    start = old if latent is None else output_last(latent, layout).astype(np.float64)
    g, t = (np.ones(old.shape[1]), np.zeros(old.shape[1])) if batchnorm is None else scale_and_shift(batchnorm)
    on = np.abs(g) > _OFF * np.abs(g).max()
    can_shift = bias is not None or batchnorm is not None
    moments = _measure_moments(layer, x, target, (np.where(on, g, 1.0), t), random, centred=can_shift)
    groups, inputs, _ = moments.covariance.shape
    before = by_group(start, groups, inputs)
    trusted = with_doubt(moments.covariance, moments.different).astype(np.float32)
    change = _solve(damped(trusted), moments.cross - moments.covariance @ before)
    best = from_groups(before + change, start.shape).astype(np.float32)
    solved = on & (np.linalg.norm(best, axis=0) <= _MOST_GROWTH * np.linalg.norm(start, axis=0))
    mask = np.ones(old.shape, bool) if kernel_mask is None else output_last(kernel_mask, layout)
    if grid is None:
        values = refit(best, mask, trusted).astype(np.float64)
    elif moments.different < _FEWEST_PER_INPUT * inputs:
        values = old
    else:
        values, flat = _round_matrix(best, trusted, grid, mask, constraints.new_scales)
        if grid.channel_axis is not None:
            flat = dataclasses.replace(flat, scale=np.where(solved, flat.scale, grid.scale))
        grid, old = dataclasses.replace(grid, scale=flat.scale), flat(old).astype(np.float64)
    values = np.where(solved, values, old)
    layer = with_kernel(layer, from_output_last(values, kernel.shape, layout).astype(kernel.dtype))
    if not can_shift:
        return _SolvedLayer(layer, batchnorm, grid)
    response = np.einsum("gi,gio->go", moments.mean, by_group(values, groups, inputs)).reshape(-1)
    shift = moments.target_mean - response
    if bias is not None:
        return _SolvedLayer(layer.with_weights(bias=np.where(on, shift, bias)), batchnorm, grid)
    assert batchnorm is not None, "a layer that can shift its output has a bias or a BatchNorm"
    moving_mean = batchnorm.required_weight("moving_mean") - np.where(on, shift, 0.0)
    return _SolvedLayer(layer, batchnorm.with_weights(moving_mean=moving_mean), grid)


def _round_matrix(
    matrix: np.ndarray, covariance: np.ndarray, grid: Quantizer, mask: np.ndarray, new_scales: bool
) -> tuple[np.ndarray, Quantizer]:
    """(`matrix` on its grid, zero outside `mask`; the grid with channel axis 1 and its new scales)."""
    flat = dataclasses.replace(grid, channel_axis=None if grid.channel_axis is None else 1)
    if new_scales and not np.any(flat.zero_point):
        masked = np.where(mask, matrix, 0)
        widest = weight_quantizer(masked, flat.bits, flat.channel_axis).scale
        flat = search_scale(masked, covariance, dataclasses.replace(flat, scale=widest))
    integers = round_with_feedback(matrix, covariance, flat, damping=_ROUNDING_DAMPING, mask=mask)
    integers, flat = descend(
        integers, matrix, covariance, flat, damping=_ROUNDING_DAMPING, mask=mask, new_scales=new_scales
    )
    return flat.dequantize(integers).astype(np.float64), flat


@dataclasses.dataclass(frozen=True)
class _Moments:
    """Moments of a layer's input patches and of its target: around their means, or around 0.

    Attributes:
        mean: (groups, inputs).
        covariance: (groups, inputs, inputs).
        cross: (groups, inputs, outputs per group).
        target_mean: (outputs,).
        different: Number of different patches that were measured.
    """

    mean: np.ndarray
    covariance: np.ndarray
    cross: np.ndarray
    target_mean: np.ndarray
    different: int


def _measure_moments(
    layer: Layer,
    x: np.ndarray,
    target: np.ndarray,
    scale_and_shift: tuple[np.ndarray, np.ndarray],
    random: np.random.Generator,
    *,
    centred: bool,
) -> _Moments:
    """Moments of patches of `x` and of `target` before the BatchNorm of this scale and shift."""
    scale, shift = scale_and_shift
    shape = target.shape[:-1]
    groups, inputs = patches_at(x, layer, tuple(np.zeros((len(shape), 1), np.intp))).shape[1:]
    origin: tuple[Any, ...] = (0.0, 0.0)
    sums: list[Any] = [0.0] * 4
    count = 0
    for places in _draw_places(shape, groups, inputs, random):
        patches, outputs = patches_at(x, layer, places), (target[places] - shift) / scale
        if centred and count == 0:  # sums around a value near the mean keep their precision
            origin = tuple(a.mean(axis=0, dtype=np.float64) for a in (patches, outputs))
        rows = np.swapaxes(patches - origin[0], 0, 1).astype(np.float32)
        columns = (outputs - origin[1]).astype(np.float32)
        by_rows = np.swapaxes(columns.reshape(len(columns), groups, -1), 0, 1)
        terms = (
            rows.sum(axis=1, dtype=np.float64),
            np.swapaxes(rows, 1, 2) @ rows,
            np.swapaxes(rows, 1, 2) @ by_rows,
            columns.sum(axis=0, dtype=np.float64),
        )
        sums, count = [total + term for total, term in zip(sums, terms, strict=True)], count + len(columns)
    mean, covariance, cross, target_mean = (total / count for total in sums)
    if centred:
        covariance = covariance - mean[:, :, None] * mean[:, None, :]
        cross = cross - mean[:, :, None] * target_mean.reshape(groups, 1, -1)
    different = min(count, math.prod(shape))
    return _Moments(mean + origin[0], covariance, cross, target_mean + origin[1], different)


def _draw_places(
    shape: tuple[int, ...], groups: int, inputs: int, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, ...]]:
    """Places of a layer's output whose patches are measured, in parts: all of them, or enough random ones."""
    total = math.prod(shape)
    enough = max(_PATCHES, _PER_INPUT * inputs) if groups == 1 else _PATCHES
    at_once = max(1, _MOST_VALUES // (groups * inputs))
    if total <= enough:
        for at in range(0, total, at_once):
            yield np.unravel_index(np.arange(at, min(at + at_once, total)), shape)
    else:
        # Kernels of many groups are small: one part is enough for their few inputs.
        at_once = min(enough, at_once)
        for _ in range(-(-enough // at_once) if groups == 1 else 1):
            yield tuple(random.integers(size, size=at_once) for size in shape)


def _solve(h: np.ndarray, right: np.ndarray) -> np.ndarray:
    """h^-1 right, group by group."""
    if len(h) > 1:
        return np.linalg.solve(h, right)
    return linalg.cho_solve(linalg.cho_factor(h[0], lower=True), right[0].astype(h.dtype))[None]
