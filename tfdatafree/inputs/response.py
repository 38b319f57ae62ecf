"""How a BatchNorm's statistics depend on the mean and the strength of the inputs, and which of these fit what it stores.

Inputs are x = m + s z, with a mean m_g and a standard deviation s_g for each group g of their values. Behind a linear function
f, with f_g the part of f that reads group g,

    f(x) = f(0) + sum_g m_g f_g(1) + sum_g s_g f_g(z)

is linear in w = (1, m, s). So the mean of f(x) is M w and its variance is w' C w, per channel, where M and C are the mean and
the covariance of these terms.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from tfdatafree.numerics.metrics import normal_divergence

# What it costs, in nats, if groups differ by one standard deviation or by a factor e. Where a few filters do not tell the
# groups apart, they stay alike.
_UNLIKE = 0.02
# More nats than this are left only where the search did not get near.
_FAR = 8.0
# Channels with this part of the median variance are dead.
_DEAD = 1e-4


class StoredMoments:
    """The mean and variance that a BatchNorm stores, (channels,)."""

    def __init__(self, mean: np.ndarray, variance: np.ndarray, epsilon: float):
        self._mean, self._epsilon = mean.astype(np.float64), epsilon
        self._variance: np.ndarray = variance.astype(np.float64) + epsilon
        self._lively = self._variance > _DEAD * np.median(self._variance)
        self._alive = self._lively

    def ask_those_that_tell(self, variance: np.ndarray) -> None:
        """Leaves out channels that were constant in training, or that are constant on varied inputs, with this variance."""
        self._alive = self._lively & (variance > 0)

    def divergence(self, mean: np.ndarray, variance: np.ndarray) -> float:
        """Mean over the channels of KL(N(mean, variance) || N(stored)), in nats."""
        nats = normal_divergence(mean, variance + self._epsilon, self._mean, self._variance)
        return float(nats[self._alive].mean()) if self._alive.any() else 0.0

    def slopes(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of `divergence` by mean and variance, (channels,) each."""
        share = self._alive.astype(np.float64) / max(int(np.count_nonzero(self._alive)), 1)
        by_variance = (1 / self._variance - 1 / (variance + self._epsilon)) / 2
        return share * (mean - self._mean) / self._variance, share * by_variance


Divergence = Callable[[np.ndarray, np.ndarray], float]


class LinearDivergence:
    """(m, s) -> divergence, each (groups,), behind a linear function.

    Args:
        stored: What the BatchNorm stores.
        means: M, (channels, 1 + 2 groups).
        covariances: C, (channels, 1 + 2 groups, 1 + 2 groups).
    """

    def __init__(self, stored: StoredMoments, means: np.ndarray, covariances: np.ndarray):
        self._stored, self._means, self._covariances = stored, means, covariances

    def __call__(self, m: np.ndarray, s: np.ndarray) -> float:
        return self.with_slope(m, s)[0]

    def with_slope(self, m: np.ndarray, s: np.ndarray) -> tuple[float, np.ndarray]:
        """The divergence, and its derivatives by m and then s, (2 groups,)."""
        weights = np.concatenate([[1.0], m, s])
        products = self._covariances @ weights
        mean, variance = self._means @ weights, np.maximum(products @ weights, 0)
        by_mean, by_variance = self._stored.slopes(mean, variance)
        slope = by_mean @ self._means + 2 * by_variance @ products
        return self._stored.divergence(mean, variance), slope[1:]


@dataclass(frozen=True)
class Minimum:
    """A small divergence, and the m and s of each group that give it."""

    divergence: float
    offset: np.ndarray
    scale: np.ndarray


def shared_minimum(divergence: Divergence, groups: int) -> Minimum:
    """The minimum with one m and one s for all groups."""

    def shared(at: np.ndarray) -> float:
        return divergence(np.full(groups, at[0] * np.exp(at[1])), np.full(groups, np.exp(at[1])))

    starts = [np.array([m, log_s]) for log_s in np.log(4.0) * np.arange(-3, 6) for m in (-2.0, 0.0, 2.0)]
    start = min(starts, key=shared)
    found = optimize.minimize(shared, start, method="Nelder-Mead", options={"maxfev": 60, "xatol": 1e-3, "fatol": 1e-5})
    scale = np.full(groups, np.exp(found.x[1]))
    near = Minimum(float(found.fun), found.x[0] * scale, scale)
    if near.divergence <= _FAR:
        return near
    return min(near, _far_minimum(divergence, groups), key=lambda minimum: minimum.divergence)


def _far_minimum(divergence: Divergence, groups: int) -> Minimum:
    """The same for inputs that are many of their deviations away from zero, as pressures and temperatures are."""

    def shared(at: np.ndarray) -> float:
        return divergence(np.full(groups, at[0]), np.full(groups, np.exp(at[1])))

    scales, ratios = 4.0 ** np.arange(-3, 6), [sign * 4.0**k for k in range(5) for sign in (-1, 1)]
    start = min((np.array([m * s, np.log(s)]) for s in scales for m in ratios), key=shared)
    found = optimize.minimize(
        shared, start, method="Nelder-Mead", options={"maxfev": 120, "xatol": 1e-3, "fatol": 1e-5}
    )
    return Minimum(float(found.fun), np.full(groups, found.x[0]), np.full(groups, np.exp(found.x[1])))


def split_minimum(divergence: LinearDivergence, start: Minimum) -> Minimum:
    """The minimum with an m and an s for each group, from what fits all groups together."""
    groups = len(start.scale)

    def split(at: np.ndarray) -> tuple[float, np.ndarray]:
        centre, log_s = at[:groups], at[groups:]
        s = np.exp(log_s)
        value, slope = divergence.with_slope(centre * s, s)
        by_m, by_s = np.split(slope, 2)
        slope = np.concatenate([by_m * s, (by_m * centre + by_s) * s])
        for part, values in enumerate((centre, log_s)):
            slope[part * groups : (part + 1) * groups] += 2 * _UNLIKE / groups * (values - values.mean())
        return value + _UNLIKE * (centre.var() + log_s.var()), slope

    at = np.concatenate([start.offset / start.scale, np.log(start.scale)])
    # Not L-BFGS-B: its many small products take ten times longer where all threads of BLAS share busy cores.
    found = optimize.minimize(split, at, jac=True, method="TNC", options={"maxfun": 200})
    scale = np.exp(found.x[groups:])
    offset = found.x[:groups] * scale
    return min(start, Minimum(divergence(offset, scale), offset, scale), key=lambda minimum: minimum.divergence)
