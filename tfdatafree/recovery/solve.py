"""Least squares, layer after layer: each layer of a changed network is solved for the teacher's output, given the inputs
that the layers before it, already solved, give it now.

    minimise over V   E | (t - E t) - V^T (x - E x) |^2  +  h |V - W|^2,      h = damping * mean(diag cov x)

x is the layer's input in the student, t its output in the teacher, W its weights (of rounded ones what was rounded, where that
is known). What the layers before it got wrong is known here, and partly made good. With H = cov x + h I and
M = W + H^-1 cov(x, t - W^T x) the sum is tr (V - M)^T H (V - M) and a constant: so the weights that are left of a pruned kernel
are those of `second_moment.refit` for M, and a kernel on a grid is M rounded with error feedback. Then

    b = E t - V^T E x

so that each output's mean is the teacher's on these inputs; where a BatchNorm follows, its mean is what moves. Where the
output is added to another tensor, t is the teacher's sum less that tensor as it is now: so the last layer of a residual block
makes good what went wrong beside it. Grids may get new steps, too (`descent.py`). h keeps the weights from learning the few
generated images by heart: directions in which these hardly vary stay as they were. Where about as many patches as inputs were
seen, a kernel on a grid keeps its weights, and only its bias is solved for.
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

# Patches per layer: as many as tell the covariance of a wide kernel's inputs, at least so many times its inputs.
_PATCHES, _PER_INPUT = 2**14, 16
# Kernels on grids with fewer different patches than this many times their inputs keep their weights: rounding decides
# about all directions, also those that were not seen.
_FEWEST_PER_INPUT = 2
# Damping where a kernel is rounded to M; the full one has already kept M near W where few images tell nothing.
_ROUNDING_DAMPING = 0.3
# Values of patches that are in memory at once.
_MOST_VALUES = 2**24
# A BatchNorm channel of a smaller factor than this part of the largest is off: nothing is known of what it reads.
_OFF = 1e-4
# An output whose weights would become so many times as large reads next to nothing, and keeps its own: least squares would
# blow up what noise is left there until it fits these images.
_MOST_GROWTH = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
    """What holds for the kernels that are solved for, by layer.

    Attributes:
        masks: Layer -> bool in its kernel's shape, False for weights that stay zero.
        grids: Layer -> grid of its kernel.
        latent: Layer -> kernel before it was put on its grid.
        fixed: Layers that do not change. Layers called twice and transposed convolutions do not either.
        new_steps: Whether grids may get other steps.
    """

    masks: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    grids: Mapping[str, Quantizer] = dataclasses.field(default_factory=dict)
    latent: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    fixed: Collection[str] = ()
    new_steps: bool = False


def solve_in_order(
    student: Graph,
    teacher: Graph,
    pairs: Mapping[str, tuple[str, str]],
    inputs: tuple[Sequence[Any], Sequence[Any]],
    constraints: Constraints,
    *,
    seed: int = 0,
) -> tuple[Graph, dict[str, Quantizer]]:
    """(the student with the kernels and biases of its dense and convolution layers solved for, in order of execution; the
    grids that the kernels are on now).

    Args:
        student, teacher: Separated graphs.
        pairs: Node -> (tensor of the student, of the teacher) that are to be equal: its output, or that of the BatchNorm
            right behind it.
        inputs: One batch, as the student and as the teacher reads it.
    """
    student_inputs, teacher_inputs = inputs
    grids = constraints.grids
    solved, calls, random = student.copy(), student.calls(), np.random.default_rng(seed)
    readers, found = student.consumers(), dict(grids)

    def behind(node: Node) -> str | None:
        """The BatchNorm whose output is compared in place of the node's own."""
        return None if pairs[node.name][0] == node.output else readers[node.output][0].layer

    def can_be_solved(node: Node) -> bool:
        if node.name not in pairs or calls[node.layer] > 1 or node.layer in constraints.fixed:
            return False
        reader = behind(node)
        if reader is not None and not _on_channels(solved.layers[reader], len(student.specs[node.output].shape)):
            return False
        return layout_of(student.layer_of(node)).kind != "transpose"

    solvable = {node.name for node in student.nodes if can_be_solved(node)}
    sums = _sums(student, teacher, {name: pairs[name] for name in solvable})
    ahead = _Ahead(teacher, teacher_inputs, [sums[name][1] if name in sums else pairs[name][1] for name in solvable])

    def wanted(name: str, live: Mapping[str, Any]) -> np.ndarray:
        if name not in sums:
            return ahead.of(pairs[name][1])
        other, total = sums[name]
        return ahead.of(total) - np.asarray(live[other])

    def call(node: Node, live: Mapping[str, Any]) -> tuple:
        if node.name in solvable:
            key, layer = node.layer, solved.layer_of(node)
            reader = behind(node)
            batchnorm = None if reader is None else solved.layers[reader]
            x = np.asarray(live[node.inputs[0]])
            result = _solved(key, layer, batchnorm, x, wanted(node.name, live), constraints, random)
            solved.layers[key] = result.layer
            if reader is not None:
                solved.layers[reader] = result.batchnorm
            if result.grid is not None:
                found[key] = result.grid
        return solved.call(node, live)

    for _ in solved.walk(student_inputs, call):
        pass
    return solved, found


def _on_channels(batchnorm: Layer, rank: int) -> bool:
    return batchnorm.operation.axis % rank == rank - 1


def _sums(student: Graph, teacher: Graph, pairs: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Node whose feature is added to a tensor that is written before it -> (that tensor of the student, the teacher's sum)."""
    order = {tensor: at for at, node in enumerate(student.nodes) for tensor in node.outputs}
    places, sums = {node.name: at for at, node in enumerate(student.nodes)}, {}
    readers = student.consumers(), teacher.consumers()
    for name, features in pairs.items():
        ours, theirs = (
            _sum_of(graph, read, tensor)
            for graph, read, tensor in zip((student, teacher), readers, features, strict=True)
        )
        if ours is not None and theirs is not None and order.get(ours[0], -1) < places[name]:
            sums[name] = (ours[0], theirs[1])
    return sums


def _sum_of(graph: Graph, readers: Mapping[str, Sequence[Node]], tensor: str) -> tuple[str, str] | None:
    """(what `tensor`, perhaps rounded, is added to and to nothing else, the sum)."""
    while tensor not in graph.outputs and len(readers[tensor]) == 1:
        node = readers[tensor][0]
        operation = graph.operation_of(node)
        if isinstance(operation, keras.layers.Add) and len(set(node.inputs)) == 2 == len(node.inputs):
            other = node.inputs[1 - node.inputs.index(tensor)]
            alike = graph.specs[other].shape[1:] == graph.specs[tensor].shape[1:]
            return (other, node.output) if alike else None
        if not isinstance(operation, Quantization):
            return None
        tensor = node.output
    return None


class _Ahead:
    """The teacher, executed as far as it is asked for."""

    def __init__(self, teacher: Graph, inputs: Sequence[Any], tensors: Sequence[str]):
        shortened = teacher.up_to(sorted(set(tensors)))
        shortened.outputs = []  # a walk holds on to outputs until its end, and here each is wanted once
        self._walk = shortened.walk(inputs)
        self._wanted, self._found = set(tensors), dict[str, np.ndarray]()

    def of(self, tensor: str) -> np.ndarray:
        while tensor not in self._found:
            node, live = next(self._walk)
            self._found |= {name: np.asarray(live[name]) for name in node.outputs if name in self._wanted}
        return self._found.pop(tensor)


@dataclasses.dataclass(frozen=True)
class _Solved:
    """A layer, the BatchNorm behind it, if its output is compared, and the grid of its kernel, if it has one."""

    layer: Layer
    batchnorm: Layer | None
    grid: Quantizer | None


def _solved(
    key: str,
    layer: Layer,
    batchnorm: Layer | None,
    x: np.ndarray,
    wanted: np.ndarray,
    constraints: Constraints,
    random: np.random.Generator,
) -> _Solved:
    """Layer and BatchNorm such that what they write of `x` is near `wanted`."""
    mask, grid, latent = constraints.masks.get(key), constraints.grids.get(key), constraints.latent.get(key)
    layout, kernel, bias = layout_of(layer), kernel_of(layer), layer.weight("bias")
    old = output_last(kernel, layout).astype(np.float64)
    start = old if latent is None else output_last(latent, layout).astype(np.float64)
    g, t = (np.ones(old.shape[1]), np.zeros(old.shape[1])) if batchnorm is None else scale_and_shift(batchnorm)
    on = np.abs(g) > _OFF * np.abs(g).max()
    movable = bias is not None or batchnorm is not None
    seen = _observe(layer, x, wanted, (np.where(on, g, 1.0), t), random, centred=movable)
    groups, inputs, _ = seen.covariance.shape
    before = by_group(start, groups, inputs)
    trusted = with_doubt(seen.covariance, seen.different).astype(np.float32)
    step = _solve(damped(trusted), seen.cross - seen.covariance @ before)
    best = from_groups(before + step, start.shape).astype(np.float32)
    solved = on & (np.linalg.norm(best, axis=0) <= _MOST_GROWTH * np.linalg.norm(start, axis=0))
    keep = np.ones(old.shape, bool) if mask is None else output_last(mask, layout)
    if grid is None:
        values = refit(best, keep, trusted).astype(np.float64)
    elif seen.different < _FEWEST_PER_INPUT * inputs:
        values = old
    else:
        values, flat = _rounded(best, trusted, grid, keep, constraints.new_steps)
        if grid.channel_axis is not None:
            flat = dataclasses.replace(flat, scale=np.where(solved, flat.scale, grid.scale))
        grid, old = dataclasses.replace(grid, scale=flat.scale), flat(old).astype(np.float64)
    values = np.where(solved, values, old)
    layer = with_kernel(layer, from_output_last(values, kernel.shape, layout).astype(kernel.dtype))
    if not movable:
        return _Solved(layer, batchnorm, grid)
    response = np.einsum("gi,gio->go", seen.mean, by_group(values, groups, inputs)).reshape(-1)
    shift = seen.wanted_mean - response
    if bias is not None:
        return _Solved(layer.with_weights(bias=np.where(on, shift, bias)), batchnorm, grid)
    moved = batchnorm.weight("moving_mean") - np.where(on, shift, 0.0)
    return _Solved(layer, batchnorm.with_weights(moving_mean=moved), grid)


def _rounded(
    matrix: np.ndarray, covariance: np.ndarray, grid: Quantizer, keep: np.ndarray, new_steps: bool
) -> tuple[np.ndarray, Quantizer]:
    """(`matrix` on its grid, zero where not `keep`; that grid along the outputs, with the steps it has now)."""
    flat = dataclasses.replace(grid, channel_axis=None if grid.channel_axis is None else 1)
    if new_steps and not np.any(flat.zero_point):
        kept = np.where(keep, matrix, 0)
        widest = weight_quantizer(kept, flat.bits, flat.channel_axis).scale
        flat = search_scale(kept, covariance, dataclasses.replace(flat, scale=widest))
    integers = round_with_feedback(matrix, covariance, flat, damping=_ROUNDING_DAMPING, kept=keep)
    integers, flat = descend(
        integers, matrix, covariance, flat, damping=_ROUNDING_DAMPING, mask=keep, new_scales=new_steps
    )
    return flat.dequantize(integers).astype(np.float64), flat


@dataclasses.dataclass(frozen=True)
class _Seen:
    """Moments of a layer's input patches and of its output as wanted: around their means, or around 0.

    mean (groups, inputs), covariance (groups, inputs, inputs), cross (groups, inputs, outputs of one),
    wanted_mean (outputs,); different: how many patches they are of.
    """

    mean: np.ndarray
    covariance: np.ndarray
    cross: np.ndarray
    wanted_mean: np.ndarray
    different: int


def _observe(
    layer: Layer,
    x: np.ndarray,
    wanted: np.ndarray,
    scale_and_shift: tuple[np.ndarray, np.ndarray],
    random: np.random.Generator,
    *,
    centred: bool,
) -> _Seen:
    scale, shift = scale_and_shift
    shape = wanted.shape[:-1]
    groups, inputs = patches_at(x, layer, tuple(np.zeros((len(shape), 1), np.intp))).shape[1:]
    origin: tuple | None = None
    sums: list[Any] = [0.0] * 4
    count = 0
    for places in _places(shape, groups, inputs, random):
        patches, target = patches_at(x, layer, places), (wanted[places] - shift) / scale
        if origin is None:  # sums around a value near the mean keep their digits
            origin = tuple(a.mean(axis=0, dtype=np.float64) for a in (patches, target)) if centred else (0.0, 0.0)
        rows = np.swapaxes(patches - origin[0], 0, 1).astype(np.float32)
        columns = (target - origin[1]).astype(np.float32)
        by_rows = np.swapaxes(columns.reshape(len(columns), groups, -1), 0, 1)
        terms = (
            rows.sum(axis=1, dtype=np.float64),
            np.swapaxes(rows, 1, 2) @ rows,
            np.swapaxes(rows, 1, 2) @ by_rows,
            columns.sum(axis=0, dtype=np.float64),
        )
        sums, count = [total + term for total, term in zip(sums, terms, strict=True)], count + len(columns)
    mean, covariance, cross, wanted_mean = (total / count for total in sums)
    if centred:
        covariance = covariance - mean[:, :, None] * mean[:, None, :]
        cross = cross - mean[:, :, None] * wanted_mean.reshape(groups, 1, -1)
    different = min(count, math.prod(shape))
    return _Seen(mean + origin[0], covariance, cross, wanted_mean + origin[1], different)


def _places(
    shape: tuple[int, ...], groups: int, inputs: int, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, ...]]:
    """Places of a layer's output to look at: all of them, or as many random ones as are enough, in parts."""
    total = math.prod(shape)
    enough = max(_PATCHES, _PER_INPUT * inputs) if groups == 1 else _PATCHES
    at_once = max(1, _MOST_VALUES // (groups * inputs))
    if total <= enough:
        for at in range(0, total, at_once):
            yield np.unravel_index(np.arange(at, min(at + at_once, total)), shape)
    else:
        # Kernels of many groups are small, and one part tells what their few inputs do.
        at_once = min(enough, at_once)
        for _ in range(-(-enough // at_once) if groups == 1 else 1):
            yield tuple(random.integers(size, size=at_once) for size in shape)


def _solve(h: np.ndarray, right: np.ndarray) -> np.ndarray:
    """h^-1 right, of each group."""
    if len(h) > 1:
        return np.linalg.solve(h, right)
    return linalg.cho_solve(linalg.cho_factor(h[0], lower=True), right[0].astype(h.dtype))[None]
