"""Fits the distribution of generated inputs to what the first BatchNorm knows of the real ones.

For a model with several inputs each is fitted to the first BatchNorm that reads only what comes from this input. The
statistics of the BatchNorm are those of f(x) on real inputs x, where f is all that comes before it. Generated inputs
are x = m + s z with base inputs z of a kind (pictures, smooth fields, noise) and a mean m and a standard deviation s per
channel. The best m, s and kind are those with the smallest divergence

    KL(N(mean of f(x), variance of f(x)) || N(stored mean, stored variance)),      mean over the BatchNorm's channels, in nats

Mostly f is linear up to a constant (convolution, padding, permutation). Then f(m + s z) = f(0) + m f'(1) + s f'(z), and moments
for every m and s follow from one pass of 0, 1 and z. Otherwise inputs pass once for each m and s that is tried.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from scipy import optimize

from tfdatafree.inputs.make import make_input
from tfdatafree.inputs.procedural import PICTURE_MEAN, PICTURE_SD, kinds_for, unit_inputs
from tfdatafree.model.batchnorm import is_batchnorm, on_channels
from tfdatafree.model.cost import multiplications
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.model.network import InputKind, InputRange

# With more channels, all share one mean and one standard deviation: the statistics of a few filters do not tell more.
_MOST_CHANNELS = 4
_EXAMPLES = 8
# All examples together have about this many values, but there are never fewer than four.
_VALUES = 2**19
# Positions of each example whose values are looked at.
_POSITIONS = 4096
# Multiplications for all that is tried where f is not linear.
_MOST_MULTIPLICATIONS = 2**34
_TRIES = 100
# Channels with this part of the median variance are dead.
_DEAD = 1e-4
# What it costs, in nats, if the channels of the inputs differ by one standard deviation or by a factor e. Where a few filters
# do not tell the channels apart, they stay alike.
_UNLIKE = 0.02
# A kind other than pictures has to fit better by this many nats, plus a quarter of what pictures reach.
_CLEARLY = 0.01
# More nats than this are left only where the search did not get near.
_FAR = 8.0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The generated inputs that fit best, offset + scale * z.

    Attributes:
        kind: Kind of the base inputs z.
        offset, scale: Per channel, or one number for all: (channels,) or (1,).
        mean, sd: Of these inputs, alike.
        divergence: What is left of the divergence, in nats.
        batchnorm: Name of the BatchNorm.
        linear: Whether everything before it is linear. A ReLU hides half of what the statistics could tell.
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
    of_range: Callable[[float, float], float]


def fit_inputs(graph: Graph, name: str, seed: int = 0) -> Fit | None:
    """What fits the first BatchNorm behind the input `name` of an unfolded, separated graph best; None where none tells."""
    problem = _pose(graph, name)
    if problem is None:
        return None
    bases = {kind: problem.inputs(kind, seed) for kind in kinds_for(problem.shape)}
    divergences = {kind: problem.divergence_on(z, seed) for kind, z in bases.items()}
    found = {kind: _shared_minimum(divergence, problem.groups) for kind, divergence in divergences.items()}
    best, pictures = min(found, key=lambda kind: found[kind].divergence), next(iter(found))
    if found[best].divergence > 0.75 * found[pictures].divergence - _CLEARLY:
        best = pictures
    minimum = _split_minimum(divergences[best], found[best])
    rows = bases[best].reshape(-1, problem.shape[-1] if problem.groups > 1 else 1).astype(np.float64)
    return Fit(
        kind=best,
        offset=minimum.offset,
        scale=minimum.scale,
        mean=minimum.offset + minimum.scale * rows.mean(axis=0),
        sd=minimum.scale * rows.std(axis=0),
        divergence=minimum.divergence,
        batchnorm=problem.batchnorm,
        linear=problem.linear,
        of_range=lambda low, high: _of_range(divergences[pictures], problem.groups, low, high),
    )


def divergence_of(graph: Graph, name: str, input_range: InputRange, seed: int = 0) -> float | None:
    """The divergence of what is generated in this range for the input `name`, in nats; None where no BatchNorm tells."""
    problem = _pose(graph, name)
    if problem is None:
        return None
    generated = make_input(graph.specs[name], problem.count, input_range, seed=seed)
    return problem.divergence(*problem.moments(generated))


def _of_range(divergence: "Divergence", groups: int, low: float, high: float) -> float:
    width = high - low
    return divergence(np.full(groups, low + PICTURE_MEAN * width), np.full(groups, PICTURE_SD * width))


def _pose(graph: Graph, name: str) -> "_Problem | None":
    node = _first_batchnorm(graph, name)
    if node is None:
        return None
    prefix, spec = _before(graph, name, node), graph.specs[name]
    shape = spec.example_shape
    count = int(np.clip(_VALUES // np.prod(shape), 4, _EXAMPLES))
    if prefix is not None:
        count = int(np.clip(_MOST_MULTIPLICATIONS // (_TRIES * max(multiplications(prefix), 1)), 1, count))
        prefix = prefix.with_tensors()
    return _Problem(prefix, node.name, spec.dtype, graph.layer_of(node), shape, count)


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


Divergence = Callable[[np.ndarray, np.ndarray], float]


class _Problem:
    """The way from an input to its first BatchNorm."""

    def __init__(
        self, prefix: Graph | None, batchnorm: str, dtype: str, layer: Layer, shape: tuple[int, ...], count: int
    ):
        self.batchnorm, self.shape, self.linear = batchnorm, shape, False
        self.groups = shape[-1] if shape[-1] <= _MOST_CHANNELS else 1
        self._prefix, self._dtype, self.count = prefix, dtype, count
        self._epsilon = layer.operation.epsilon
        self._mean = layer.required_weight("moving_mean").astype(np.float64)
        self._variance = layer.required_weight("moving_variance").astype(np.float64) + self._epsilon
        self._alive = np.ones(len(self._mean), bool)

    def inputs(self, kind: InputKind, seed: int) -> np.ndarray:
        """Base inputs z."""
        return unit_inputs(self.count, self.shape, kind, seed=seed)

    def moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each channel before the BatchNorm."""
        y = self._run(x)
        mean, variance = _moments(y.reshape(len(y), -1, y.shape[-1]).astype(np.float64))
        self._ask_those_that_tell(variance)
        return mean, variance

    def _ask_those_that_tell(self, variance: np.ndarray) -> None:
        """Leaves out channels that were constant in training, or that are constant on varied inputs, with this variance."""
        self._alive = (self._variance > _DEAD * np.median(self._variance)) & (variance > 0)

    def divergence_on(self, z: np.ndarray, seed: int) -> Divergence:
        """(m, s) -> divergence of m + s z; both (groups,)."""
        random = np.random.default_rng(seed)
        constant, masks = np.zeros((1, *self.shape), np.float32), self._masks()
        places = None

        def run(x: np.ndarray) -> np.ndarray:
            """(examples, positions, channels) before the BatchNorm, float64."""
            nonlocal places
            y = self._run(x)
            y = y.reshape(len(y), -1, y.shape[-1])
            if places is None:
                places = (
                    np.arange(y.shape[1])
                    if y.shape[1] <= _POSITIONS
                    else random.choice(y.shape[1], _POSITIONS, replace=False)
                )
            return y[:, places].astype(np.float64)

        zero = run(constant)
        self._ask_those_that_tell(run(z).var(axis=(0, 1)))
        self.linear = self._is_linear(run, zero, z[:1])
        if not self.linear:
            return lambda m, s: self.divergence(*_moments(run((m.mean() + s.mean() * z).astype(np.float32))))
        features = [np.broadcast_to(zero, (len(z), *zero.shape[1:]))]
        features += [np.broadcast_to(run(constant + mask) - zero, features[0].shape) for mask in masks]
        features += [run(z * mask) - zero for mask in masks]
        stacked = np.stack(features, axis=-1).reshape(-1, zero.shape[-1], len(features))  # (rows, channels, features)
        means = stacked.mean(axis=0)
        squares = np.einsum("rcf,rcg->cfg", stacked, stacked, optimize=True) / len(stacked)
        covariances = squares - means[:, :, None] * means[:, None, :]

        def divergence(m: np.ndarray, s: np.ndarray) -> float:
            weights = np.concatenate([[1.0], m, s])
            return self.divergence(means @ weights, np.maximum(weights @ covariances @ weights, 0))

        return divergence

    def _masks(self) -> np.ndarray:
        """1 in one group of channels and 0 in the others, (groups, 1, ..., 1, channels)."""
        channels = self.shape[-1]
        masks = np.eye(channels, dtype=np.float32) if self.groups > 1 else np.ones((1, channels), np.float32)
        return masks.reshape(self.groups, *[1] * (len(self.shape) - 1), channels)

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

    def divergence(self, mean: np.ndarray, variance: np.ndarray) -> float:
        ratio = (variance + self._epsilon) / self._variance
        terms = ratio - 1 - np.log(ratio) + np.square(mean - self._mean) / self._variance
        return float(terms[self._alive].mean() / 2) if self._alive.any() else 0.0


def _moments(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return y.mean(axis=(0, 1)), y.var(axis=(0, 1))


@dataclass(frozen=True)
class _Minimum:
    """A small divergence, and the m and s of each group of channels that give it."""

    divergence: float
    offset: np.ndarray
    scale: np.ndarray


def _shared_minimum(divergence: Divergence, groups: int) -> _Minimum:
    """The minimum with one m and one s for all channels."""

    def shared(at: np.ndarray) -> float:
        return divergence(np.full(groups, at[0] * np.exp(at[1])), np.full(groups, np.exp(at[1])))

    starts = [np.array([m, log_s]) for log_s in np.log(4.0) * np.arange(-3, 6) for m in (-2.0, 0.0, 2.0)]
    start = min(starts, key=shared)
    found = optimize.minimize(shared, start, method="Nelder-Mead", options={"maxfev": 60, "xatol": 1e-3, "fatol": 1e-5})
    scale = np.full(groups, np.exp(found.x[1]))
    near = _Minimum(float(found.fun), found.x[0] * scale, scale)
    if near.divergence <= _FAR:
        return near
    return min(near, _far_minimum(divergence, groups), key=lambda minimum: minimum.divergence)


def _far_minimum(divergence: Divergence, groups: int) -> _Minimum:
    """The same for inputs that are many of their deviations away from zero, as pressures and temperatures are."""

    def shared(at: np.ndarray) -> float:
        return divergence(np.full(groups, at[0]), np.full(groups, np.exp(at[1])))

    scales, ratios = 4.0 ** np.arange(-3, 6), [sign * 4.0**k for k in range(5) for sign in (-1, 1)]
    start = min((np.array([m * s, np.log(s)]) for s in scales for m in ratios), key=shared)
    found = optimize.minimize(
        shared, start, method="Nelder-Mead", options={"maxfev": 120, "xatol": 1e-3, "fatol": 1e-5}
    )
    return _Minimum(float(found.fun), np.full(groups, found.x[0]), np.full(groups, np.exp(found.x[1])))


def _split_minimum(divergence: Divergence, shared: _Minimum) -> _Minimum:
    """The minimum with an m and an s for each channel, from what fits all channels together."""
    groups = len(shared.scale)
    if groups == 1:
        return shared

    def split(at: np.ndarray) -> float:
        m, log_s = at[:groups], at[groups:]
        return divergence(m * np.exp(log_s), np.exp(log_s)) + _UNLIKE * (m.var() + log_s.var())

    start = np.concatenate([shared.offset / shared.scale, np.log(shared.scale)])
    found = optimize.minimize(split, start, method="L-BFGS-B", options={"maxiter": 50})
    scale = np.exp(found.x[groups:])
    offset = found.x[:groups] * scale
    return min(shared, _Minimum(divergence(offset, scale), offset, scale), key=lambda minimum: minimum.divergence)
