"""Mean and variance of f(X) for X ~ N(mean, sd^2): what an activation makes of a BatchNorm's output.

For a piecewise linear f the moments are sums over its pieces. On a piece, f(mean + sd z) = u + v z for z in (p, q), and
M0 = Phi(q) - Phi(p),   M1 = phi(p) - phi(q),   M2 = M0 + p phi(p) - q phi(q)
E f = sum u M0 + v M1,  Var f = sum (u-m)^2 M0 + 2 (u-m) v M1 + v^2 M2   with m = E f
so that both agree with samples of f(X), without cancellation for channels that are nearly always clipped.
Source: Nagel et al. 2019, arXiv 1906.04721, appendix C (the clipped normal distribution).
"""

import math
from collections.abc import Callable

import numpy as np

# Beyond 40 standard deviations both the normal density and its tail are 0 in float64.
_FAR = 40.0
# Beyond 8 standard deviations lies 1e-15 of the normal distribution.
_QUADRATURE_REACH = 8.0
_CHANNELS_AT_ONCE = 256

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def activation_moments(
    name: str,
    mean: np.ndarray,
    sd: np.ndarray,
    *,
    max_value: float | None = None,
    negative_slope: float | np.ndarray | None = None,
    threshold: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the activation `name` of X ~ N(mean, sd^2), elementwise and in closed form.

    Args:
        name: "linear", "relu", "relu6" or "leaky_relu". For other functions use `moments_by_quadrature`.
        mean, sd: Broadcastable float arrays, sd >= 0; sd = 0 gives (f(mean), 0) exactly.
        max_value, negative_slope, threshold: As in keras.layers.ReLU, of which all names but "linear" are cases.
            relu6 has max_value 6, and leaky_relu the negative_slope 0.2 of the function keras.activations.leaky_relu
            (the layer LeakyReLU has one of its own), unless told otherwise. negative_slope may be an array, one per
            channel (PReLU).
    Returns:
        (mean, variance): float64 arrays of the broadcast shape.
    """
    if name not in ("linear", "relu", "relu6", "leaky_relu"):
        raise ValueError(
            f"no closed form for the activation {name!r}; choose linear, relu, relu6 or leaky_relu, "
            "or use moments_by_quadrature with the function itself."
        )
    mean, sd = _checked(mean, sd)
    if name == "linear":
        return mean.copy(), sd**2
    if name == "relu6" and max_value is None:
        max_value = 6.0
    if negative_slope is None:
        negative_slope = 0.2 if name == "leaky_relu" else 0.0
    cap = np.inf if max_value is None else float(max_value)
    if cap < threshold:
        raise ValueError(f"max_value is {max_value} and threshold {threshold}; max_value must not be the lower one.")
    # Each piece of keras.layers.ReLU: from, to, slope, value at x = 0.
    slope = np.asarray(negative_slope, np.float64)
    pieces = [(-np.inf, threshold, slope, -slope * threshold), (threshold, cap, 1.0, 0.0)]
    if np.isfinite(cap):
        pieces.append((cap, np.inf, 0.0, cap))
    return _piecewise_linear_moments(pieces, mean, sd)


def moments_by_quadrature(
    function: Callable[[np.ndarray], np.ndarray], mean: np.ndarray, sd: np.ndarray, points: int = 4001
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of function(X) for X ~ N(mean, sd^2), elementwise, by the trapezoidal rule over +-8 sd.

    With the default number of points the mean of a function with a kink of slope 1 is within 1e-6 sd, and that of a
    smooth function within rounding. A function that jumps is only met within 1e-3 of the jump.
    Args:
        function: Takes and returns a float64 array (points, channels), elementwise.
        mean, sd: Broadcastable float arrays, sd >= 0; sd = 0 gives (function(mean), 0).
    Returns:
        (mean, variance): float64 arrays of the broadcast shape.
    """
    mean, sd = _checked(mean, sd)
    z = np.linspace(-_QUADRATURE_REACH, _QUADRATURE_REACH, points)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    first, second = np.empty(mean.size), np.empty(mean.size)
    for start in range(0, mean.size, _CHANNELS_AT_ONCE):  # a block at a time bounds the memory
        block = slice(start, start + _CHANNELS_AT_ONCE)
        x = mean.reshape(-1)[block] + sd.reshape(-1)[block] * z[:, None]
        y = np.asarray(function(x), np.float64)
        # Taken relative to one value, a constant function (or sd = 0) has exactly its mean and no variance.
        origin = y[points // 2]
        y = y - origin
        centre = weight @ y
        first[block] = origin + centre
        second[block] = weight @ (y - centre) ** 2
    return first.reshape(mean.shape), second.reshape(mean.shape)


def _piecewise_linear_moments(pieces: list[tuple], mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments of the function that is value + slope * x on start <= x < end; pieces are (start, end, slope, value)."""
    random = sd > 0
    safe_sd = np.where(random, sd, 1.0)
    parts = []
    for start, end, slope, value in pieces:
        with np.errstate(over="ignore"):
            p = np.clip((start - mean) / safe_sd, -_FAR, _FAR)
            q = np.clip((end - mean) / safe_sd, -_FAR, _FAR)
        density_p, density_q = _density(p), _density(q)
        m0 = _probability(p, q)
        m1 = density_p - density_q
        m2 = m0 + p * density_p - q * density_q
        inside = (start <= mean) & (mean < end)
        parts.append(
            (
                value + slope * mean,
                slope * sd,
                np.where(random, m0, inside),
                np.where(random, m1, 0.0),
                np.where(random, m2, 0.0),
            )
        )
    first = sum(u * m0 + v * m1 for u, v, m0, m1, _ in parts)
    second = sum((u - first) ** 2 * m0 + 2 * (u - first) * v * m1 + v**2 * m2 for u, v, m0, m1, m2 in parts)
    return first, np.where(random, np.maximum(second, 0.0), 0.0)


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _probability(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Probability that a standard normal lies in (p, q), exact in both tails."""
    # Mirrored to the left where needed: differences of small tails keep their digits.
    mirrored = p > 0
    p, q = np.where(mirrored, -q, p), np.where(mirrored, -p, q)
    return (_erfc(-q / math.sqrt(2)) - _erfc(-p / math.sqrt(2))) / 2


def _checked(mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, sd = np.broadcast_arrays(np.asarray(mean, np.float64), np.asarray(sd, np.float64))
    if not (np.isfinite(mean).all() and np.isfinite(sd).all() and np.all(sd >= 0)):
        raise ValueError("mean and sd must be finite and sd at least 0; take sd = |gamma| * sqrt(v / (v + eps)).")
    return mean, sd
