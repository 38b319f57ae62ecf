"""Fits the distribution of generated inputs to what the first BatchNorm knows of the real ones.

The statistics of the first BatchNorm are those of f(x) on real inputs x, where f is all that comes before it. Generated inputs
are x = m + s z with base inputs z of a kind (pictures, smooth fields, noise) and a mean m and a standard deviation s per
channel. The best m, s and kind are those with the smallest divergence

    KL(N(mean of f(x), variance of f(x)) || N(stored mean, stored variance)),      mean over the BatchNorm's channels, in nats

Mostly f is linear up to a constant (convolution, padding, permutation). Then f(m + s z) = f(0) + m f'(1) + s f'(z), and moments
for every m and s follow from one pass of 0, 1 and z. Otherwise inputs pass once for each m and s that is tried.

Coefficients of a spectrum, sensors of a device and entries of a feature vector differ in mean and strength along one axis. Where
one m and one s leave much of the divergence, each group of neighbours along an axis gets its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfdatafree.inputs.make import make_input
from tfdatafree.inputs.procedural import PICTURE_MEAN, PICTURE_SD, kinds_for, unit_inputs
from tfdatafree.inputs.response import (
    Divergence,
    LinearDivergence,
    Minimum,
    StoredMoments,
    shared_minimum,
    split_minimum,
)
from tfdatafree.model.batchnorm import is_batchnorm, on_channels
from tfdatafree.model.cost import multiplications
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.model.network import InputKind, InputRange

# With so few channels, each has its own mean and standard deviation from the start: they may be colours.
_FEW_CHANNELS = 4
# Most groups of neighbours along an axis, and the most values of the covariances of all groups.
_MOST_BINS, _MOST_COVARIANCES = 32, 2**24
_EXAMPLES = 8
# All examples together have about this many values, but there are never fewer than four.
_VALUES = 2**19
# Positions of each example whose values are looked at, and the most values of all examples and groups together.
_POSITIONS, _MOST_VALUES = 4096, 2**25
# Multiplications for all that is tried where f is not linear, and for one way of splitting where it is.
_MOST_MULTIPLICATIONS = 2**34
_TRIES = 100
# A kind other than pictures has to fit better by this many nats, plus a quarter of what pictures reach.
_CLEARLY = 0.01
# Groups along an axis have to fit better by this many nats, and twice as well.
_CLEARLY_SPLIT = 0.1


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The generated inputs that fit best, offset + scale * z.

    Attributes:
        kind: Kind of the base inputs z.
        offset, scale: Arrays that broadcast to an input: (1,) or (channels,) for example, or (bins, 1) for a spectrum.
        mean, sd: Of these inputs, alike.
        divergence: What is left of the divergence, in nats.
        batchnorm: Name of the BatchNorm.
        linear: Whether everything before it is linear. A ReLU hides half of what the statistics could tell.
        split: Whether the inputs differ along an axis too much for pictures.
        of_range: (low, high) -> divergence of pictures that fill this range.
    """

    kind: InputKind
    offset: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    divergence: float
    batchnorm: str
    linear: bool
    split: bool
    of_range: Callable[[float, float], float]


def fit_inputs(graph: Graph, name: str, seed: int = 0) -> Fit | None:
    """What fits the first BatchNorm behind the input `name` of an unfolded, separated graph best; None where none tells."""
    problem = _pose(graph, name)
    if problem is None:
        return None
    bases = {kind: problem.inputs(kind, seed) for kind in kinds_for(problem.shape)}
    groups = problem.few_channels()
    divergences = {kind: problem.divergence_on(z, groups, seed) for kind, z in bases.items()}
    alike = {kind: shared_minimum(divergence, len(groups)) for kind, divergence in divergences.items()}
    kind = _best_kind(alike)
    minimum, divergence = alike[kind], divergences[kind]
    if len(groups) > 1 and isinstance(divergence, LinearDivergence):
        minimum = split_minimum(divergence, minimum)
    found = _Split(kind, groups, minimum)
    split = _split(problem, bases, alike, seed) if problem.linear and minimum.divergence > _CLEARLY_SPLIT else None
    clear = split is not None and split.clearly_better(minimum.divergence)
    if split is not None and clear:
        found = split
    offset, scale = found.spread(found.minimum.offset), found.spread(found.minimum.scale)
    z = bases[found.kind].astype(np.float64)
    axes = tuple(axis for axis in range(z.ndim) if axis == 0 or offset.shape[axis - 1] == 1)
    pictures = next(iter(divergences))
    return Fit(
        kind=found.kind,
        offset=_trimmed(offset),
        scale=_trimmed(scale),
        mean=_trimmed(offset + scale * z.mean(axis=axes, keepdims=True)[0]),
        sd=_trimmed(scale * z.std(axis=axes, keepdims=True)[0]),
        divergence=found.minimum.divergence,
        batchnorm=problem.batchnorm,
        linear=problem.linear,
        split=clear,
        of_range=lambda low, high: _of_range(divergences[pictures], len(groups), low, high),
    )


@dataclass(frozen=True)
class _Split:
    """What fits best with these groups, arrays of 0 and 1, (groups, ...), each of which broadcasts to an input."""

    kind: InputKind
    groups: np.ndarray
    minimum: Minimum

    def clearly_better(self, divergence: float) -> bool:
        return self.minimum.divergence < min(divergence / 2, divergence - _CLEARLY_SPLIT)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """One value per group -> an array that broadcasts to an input."""
        return np.tensordot(values, self.groups.astype(np.float64), axes=1)


def _split(
    problem: "_Problem", bases: Mapping[InputKind, np.ndarray], alike: Mapping[InputKind, Minimum], seed: int
) -> _Split | None:
    """What fits best with groups along one axis; None for inputs of one value."""
    found = []
    for groups in problem.axes():
        minima = {}
        for kind, z in bases.items():
            divergence = problem.divergence_on(z, groups, seed)
            assert isinstance(divergence, LinearDivergence), "called where f is linear"
            offset, scale = (np.full(len(groups), part.mean()) for part in (alike[kind].offset, alike[kind].scale))
            start = Minimum(divergence(offset, scale), offset, scale)
            minima[kind] = split_minimum(divergence, start)
        kind = _best_kind(minima)
        found.append(_Split(kind, groups, minima[kind]))
    return min(found, key=lambda split: split.minimum.divergence, default=None)


def _best_kind(minima: Mapping[InputKind, Minimum]) -> InputKind:
    """The kind that fits best; pictures, which come first, unless another one is clearly better."""
    best, pictures = min(minima, key=lambda kind: minima[kind].divergence), next(iter(minima))
    return pictures if minima[best].divergence > 0.75 * minima[pictures].divergence - _CLEARLY else best


def _trimmed(values: np.ndarray) -> np.ndarray:
    """Without leading axes of length 1."""
    return values.reshape(values.shape[next((at for at, size in enumerate(values.shape[:-1]) if size > 1), -1) :])


def divergence_of(graph: Graph, name: str, input_range: InputRange, seed: int = 0) -> float | None:
    """The divergence of what is generated in this range for the input `name`, in nats; None where no BatchNorm tells."""
    problem = _pose(graph, name)
    if problem is None:
        return None
    return problem.divergence_of(make_input(graph.specs[name], problem.count, input_range, seed=seed))


def _of_range(divergence: "Divergence", groups: int, low: float, high: float) -> float:
    width = high - low
    return divergence(np.full(groups, low + PICTURE_MEAN * width), np.full(groups, PICTURE_SD * width))


def _pose(graph: Graph, name: str) -> "_Problem | None":
    node = _first_batchnorm(graph, name)
    if node is None:
        return None
    prefix, spec = _before(graph, name, node), graph.specs[name]
    shape = spec.example_shape
    most = _MOST_MULTIPLICATIONS // (1 if prefix is None else max(multiplications(prefix), 1))
    count = int(np.clip(_VALUES // np.prod(shape), 4, _EXAMPLES))
    count = int(np.clip(most // _TRIES, 1, count))
    prefix = None if prefix is None else prefix.with_tensors()
    return _Problem(prefix, node.name, spec.dtype, graph.layer_of(node), shape, count, most // count)


def _before(graph: Graph, name: str, node: Node) -> Graph | None:
    """What computes the input of `node` from the input `name`; None where they are the same."""
    if node.inputs[0] == name:
        return None
    prefix = graph.up_to(node.inputs)
    prefix.inputs = [name]
    return prefix


def _first_batchnorm(graph: Graph, name: str) -> Node | None:
    """The first BatchNorm that reads only what comes from the input `name`."""
    reached = {name}
    for node in graph.nodes:
        if not reached.issuperset(node.inputs):
            continue
        if is_batchnorm(graph.layer_of(node)) and on_channels(graph, node):
            return node
        reached.update(node.outputs)
    return None


class _Problem:
    """The way from an input to its first BatchNorm.

    Args:
        prefix: What computes the BatchNorm's input from the network's; None where it is the network's own.
        count: Number of examples to work with.
        passes: How often these may pass.
    """

    def __init__(
        self,
        prefix: Graph | None,
        batchnorm: str,
        dtype: str,
        layer: Layer,
        shape: tuple[int, ...],
        count: int,
        passes: int,
    ):
        self.batchnorm, self.shape, self.linear, self.count = batchnorm, shape, False, count
        self._prefix, self._dtype, self._passes = prefix, dtype, passes
        mean, variance = layer.required_weight("moving_mean"), layer.required_weight("moving_variance")
        self._stored, self._channels = StoredMoments(mean, variance, layer.operation.epsilon), len(mean)

    def inputs(self, kind: InputKind, seed: int) -> np.ndarray:
        """Base inputs z."""
        return unit_inputs(self.count, self.shape, kind, seed=seed)

    def few_channels(self) -> np.ndarray:
        """A group for each of a few channels; else one group."""
        return _bins(self.shape, -1, self.shape[-1] if self.shape[-1] <= _FEW_CHANNELS else 1)

    def axes(self) -> list[np.ndarray]:
        """Groups along each axis. Channels each have their own, neighbours along other axes may share one."""
        most = min(int(np.sqrt(_MOST_COVARIANCES / self._channels) / 2), self._passes // 2)
        counts = [min(size, most, _MOST_BINS) for size in self.shape[:-1]]
        counts += [self.shape[-1] if self.shape[-1] <= most else 1]
        return [_bins(self.shape, axis, count) for axis, count in enumerate(counts) if count > 1]

    def divergence_of(self, x: np.ndarray) -> float:
        """The divergence of inputs `x`."""
        y = self._run(x)
        mean, variance = _moments(y.reshape(len(y), -1, y.shape[-1]).astype(np.float64))
        self._stored.ask_those_that_tell(variance)
        return self._stored.divergence(mean, variance)

    def divergence_on(self, z: np.ndarray, groups: np.ndarray, seed: int) -> Divergence:
        """(m, s) -> divergence of m + s z, with one m and one s for each of `groups`."""
        random = np.random.default_rng(seed)
        constant = np.zeros((1, *self.shape), np.float32)
        most = _MOST_VALUES // (len(z) * self._channels * (1 + 2 * len(groups)))
        positions, places = int(np.clip(most, 64, _POSITIONS)), None

        def run(x: np.ndarray) -> np.ndarray:
            """(examples, positions, channels) before the BatchNorm, float64."""
            nonlocal places
            y = self._run(x)
            y = y.reshape(len(y), -1, y.shape[-1])
            if places is None:
                places = (
                    np.arange(y.shape[1])
                    if y.shape[1] <= positions
                    else random.choice(y.shape[1], positions, replace=False)
                )
            return y[:, places].astype(np.float64)

        zero = run(constant)
        self._stored.ask_those_that_tell(run(z).var(axis=(0, 1)))
        self.linear = self._is_linear(run, zero, z[:1])
        if not self.linear:
            return lambda m, s: self._stored.divergence(*_moments(run((m.mean() + s.mean() * z).astype(np.float32))))

        def parts(x: np.ndarray) -> np.ndarray:
            """What each group of `x` adds to f(0), (groups, examples, positions, channels)."""
            step = max(1, _VALUES // x.size)
            of = [
                run((groups[at : at + step, None] * x).reshape(-1, *self.shape)) for at in range(0, len(groups), step)
            ]
            return np.concatenate(of).reshape(len(groups), len(x), *zero.shape[1:]) - zero

        features = np.empty((1 + 2 * len(groups), len(z), *zero.shape[1:]))
        features[0], features[1 : 1 + len(groups)], features[1 + len(groups) :] = zero, parts(constant + 1), parts(z)
        stacked = np.ascontiguousarray(features.reshape(len(features), -1, self._channels).transpose(2, 1, 0))
        means = stacked.mean(axis=1)
        squares = stacked.transpose(0, 2, 1) @ stacked / stacked.shape[1]  # (channels, terms, terms)
        return LinearDivergence(self._stored, means, squares - means[:, :, None] * means[:, None, :])

    def _run(self, x: np.ndarray) -> np.ndarray:
        if self._prefix is None:
            return x
        return np.asarray(self._prefix.predict([tf.cast(x, self._dtype)])[0])

    def _is_linear(self, run: Callable[[np.ndarray], np.ndarray], zero: np.ndarray, z: np.ndarray) -> bool:
        """Whether f(z + 3) + f(0) = f(z) + f(3) and f(-z) = 2 f(0) - f(z), up to rounding."""
        if "int" in self._dtype:
            return False
        once, three = run(z), run(np.full_like(z, 3.0))
        scale = np.abs(once - zero).max() + np.abs(three - zero).max()
        sums = np.abs(run(z + 3) + zero - once - three).max() + np.abs(run(-z) - 2 * zero + once).max()
        return bool(sums <= 1e-3 * scale)


def _bins(shape: tuple[int, ...], axis: int, count: int) -> np.ndarray:
    """`count` groups of neighbours along `axis`, (count, ...): 1 in the group, 0 elsewhere, other axes of length 1."""
    axis %= len(shape)
    of = np.arange(shape[axis]) * count // shape[axis]
    groups = (of == np.arange(count)[:, None]).astype(np.float32)
    return groups.reshape(count, *(shape[axis] if other == axis else 1 for other in range(len(shape))))


def _moments(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return y.mean(axis=(0, 1)), y.var(axis=(0, 1))
