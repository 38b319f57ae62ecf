"""Range [low, high] of an activation tensor, from samples of it or from BatchNorm statistics."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from scipy import optimize, special

from tfdatafree.numerics.affine import nudged_grid
from tfdatafree.numerics.range import Range

# A range has to do for that many inputs: one in so many may go beyond it.
MANY_INPUTS = 256
# Number of samples on which `search_range` compares grids. It is fixed, so that its tf.function is traced once.
SEARCH_SAMPLES = 2048
# Of these, the number of extreme values at each end of the distribution. The other samples are random.
_TAIL = 256


def min_max(x: np.ndarray) -> Range:
    """Range from the smallest to the largest value of `x` (any shape, finite, not empty), extended to contain 0."""
    x = _finite(x)
    return Range(min(x.min(), 0.0), max(x.max(), 0.0))


def range_of_levels(low: float, high: float) -> Range:
    """Range whose 8-bit grid is nearest to the levels low + k (high - low) / 255, k = 0..255, of an 8-bit image.

    The plain grid of [-1, 1] has its values halfway between these levels, because 0.0 must be exact. So every pixel has an
    error of half the scale, in an arbitrary direction. A scale that is larger by up to a hundredth avoids this.
    """
    levels = np.linspace(low, high, 256)
    candidates = [Range(low * stretch, high * stretch) for stretch in 1 + np.arange(11) / 1024]
    scale, zero_point = nudged_grid(np.array([r.low for r in candidates]), np.array([r.high for r in candidates]))
    integers = np.clip(np.rint(levels[:, None] / scale), -128 - zero_point, 127 - zero_point)
    errors = np.mean(np.square(levels[:, None] - integers * scale), axis=0)
    return candidates[int(np.argmin(errors))]


def extreme_value(lows: np.ndarray, highs: np.ndarray, inputs: int = MANY_INPUTS) -> Range:
    """Range that many inputs would need, from the extremes of each of a few; extended to contain 0.

    A Gumbel distribution is fitted to the extremes by their mean m and standard deviation s. The end is the most likely
    extreme of `inputs` inputs: m + (ln(inputs) - gamma) s sqrt(6) / pi, gamma = 0.577. An end that no input has stays 0.
    Args:
        lows, highs: Smallest and largest value of each input, (n,), finite. From one input alone, it is `min_max`.
    Source: Gumbel 1958, Statistics of Extremes; block maxima, by the method of moments.
    """
    low, high = -_extreme(-_finite(lows), inputs), _extreme(_finite(highs), inputs)
    return Range(min(low, 0.0), max(high, 0.0))


def _extreme(values: np.ndarray, inputs: int) -> float:
    if values.max() <= 0 or len(values) == 1:
        return float(values.max())
    spread = values.std(ddof=1, dtype=np.float64) * np.sqrt(6) / np.pi
    return float(values.mean(dtype=np.float64) + (np.log(inputs) - np.euler_gamma) * spread)


def percentile(x: np.ndarray, percent: float = 99.99) -> Range:
    """Range between the (100 - percent)-th and the percent-th percentile of `x`, extended to contain 0.

    Args:
        x: Float array of any shape, finite, not empty.
        percent: Above 50, at most 100; 100 is `min_max`.
    """
    if not 50 < percent <= 100:
        raise ValueError(f"percent is {percent}; choose a number above 50 and at most 100.")
    low, high = np.percentile(_finite(x), [100 - percent, percent])
    return Range(min(low, 0.0), max(high, 0.0))


def k_sigma(
    mean: np.ndarray, sd: np.ndarray, k: float = 6.0, activation: Callable[[np.ndarray], np.ndarray] | None = None
) -> Range:
    """Range of a tensor whose channels are activation(N(mean, sd^2)), with k standard deviations on either side.

    It is the range of the activation from the lowest mean - k sd to the highest mean + k sd of all channels. It is extended to
    contain 0.
    Args:
        mean, sd: Float vectors (channels,): a BatchNorm's beta and the standard deviation of its output.
        activation: Elementwise function of a float64 vector; None for the identity.
    Source: Nagel et al. 2019, arXiv 1906.04721, section 5 (k = 6).
    """
    mean, sd = np.asarray(mean, np.float64), np.asarray(sd, np.float64)
    if not k > 0 or np.any(sd < 0):
        raise ValueError(f"k is {k} and the lowest sd {sd.min(initial=0.0)}; k must be positive and no sd negative.")
    # Points between the two ends are needed for activations like swish, whose minimum is between them.
    points = np.linspace((mean - k * sd).min(), (mean + k * sd).max(), 1001)
    return min_max(points if activation is None else np.asarray(activation(points), np.float64))


def aciq(x: np.ndarray, bits: int = 8) -> Range:
    """Range of analytic clipping (ACIQ): mean +- alpha, within the minimum and maximum of `x`.

    A Laplace or a normal density is fitted to x, whichever is more likely. alpha minimises its error of clipping and rounding.
    If x has no negative values, it counts as a density around 0 that a ReLU cut off. Then alpha comes from the positive values,
    and all levels are on their side.
    Args:
        x: Float array of any shape, finite, not empty.
    Source: Banner et al. 2019, arXiv 1810.05723, eq. 6-9 and A6.
    """
    x = _finite(x).astype(np.float64)
    extremes = min_max(x)
    one_sided = x.min() >= 0
    values = x[x > 0] if one_sided else x
    if not values.size or values.min() == values.max():
        return extremes
    middle = 0.0 if one_sided else float(values.mean())
    spread, sd = np.abs(values - middle).mean(), np.sqrt(np.square(values - middle).mean())
    # log-likelihoods of the best fits: -ln(2 spread) - 1 and -ln(sd sqrt(2 pi e))
    laplace = np.log(2 * spread) + 1 < np.log(sd * np.sqrt(2 * np.pi * np.e))
    alpha = spread * _laplace_alpha(bits + one_sided) if laplace else sd * _normal_alpha(bits + one_sided)
    low = max(extremes.low, min(middle - alpha, 0.0))
    high = min(extremes.high, max(middle + alpha, 0.0))
    return Range(low, high)


@functools.cache
def _laplace_alpha(bits: int) -> float:
    """argmin over a of 2 exp(-a) + a^2 / (3 4^bits): in mean absolute deviations."""
    return optimize.brentq(lambda a: a / (3 * 4.0**bits) - np.exp(-a), 0, 100)


@functools.cache
def _normal_alpha(bits: int) -> float:
    """argmin over a of (a^2 + 1) erfc(a / sqrt 2) - a sqrt(2 / pi) exp(-a^2 / 2) + a^2 / (3 4^bits): in standard deviations."""
    return optimize.brentq(
        lambda a: a * special.erfc(a / np.sqrt(2)) - np.sqrt(2 / np.pi) * np.exp(-a * a / 2) + a / (3 * 4.0**bits),
        0,
        100,
    )


def search_range(x: np.ndarray, bits: int = 8, steps: int = 100, *, symmetric: bool = False, seed: int = 0) -> Range:
    """Range whose grid of `bits` bits is nearest to `x`: the (l, h) that minimise ||x - Q(x)||_2.

    Compares all l in {i/N min(x_min, 0)} and h in {j/N max(x_max, 0)}, i, j = 1..N with N = steps, on the grids of
    `activation_quantizer(l, h, bits, symmetric)`. Of equal ones, the narrowest h wins, then the narrowest l.
    Up to SEARCH_SAMPLES values, the error is never larger than that of `min_max(x)`. From a larger x, all extreme values and
    a random sample of the others are used.
    Args:
        x: Float array of any shape, finite, not empty.
        symmetric: Compare grids with zero point 0, as for int16. Then h = -l, a multiple of max|x| / N.
        seed: Seed of the sample that is drawn from a large x; the same seed gives the same range.
    Source: Horton et al. 2021, figure 4, with the zero point rounded to an integer.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; choose at least 1.")
    x = _finite(x)
    widest = min_max(x)
    magnitude = max(-widest.low, widest.high)
    if magnitude == 0:
        return widest
    fractions = np.arange(1, steps + 1) / steps
    if symmetric:
        highs = magnitude * fractions
        lows, highs = -highs, highs
    else:
        # A side without values has only the candidate 0.
        lows = widest.low * fractions if widest.low < 0 else np.zeros(1)
        highs = widest.high * fractions if widest.high > 0 else np.zeros(1)
        lows, highs = (grid.ravel() for grid in np.meshgrid(lows, highs))
    scale, zero_point = nudged_grid(lows, highs, bits, symmetric)
    values, weights = _search_sample(x, seed)
    # Values are divided by the magnitude, so that their float32 squares neither overflow nor underflow.
    grids = (scale / magnitude, -(2 ** (bits - 1)) - zero_point, 2 ** (bits - 1) - 1 - zero_point)
    errors = _squared_errors(
        (values / magnitude).astype(np.float32),
        weights.astype(np.float32),
        *(_rows(a, steps).astype(np.float32) for a in grids),
    )
    best = int(np.argmin(errors.numpy().ravel()[: scale.size]))
    return Range(lows[best], highs[best])


@tf.function(input_signature=[tf.TensorSpec([SEARCH_SAMPLES])] * 2 + [tf.TensorSpec([None, None])] * 3, autograph=False)
def _squared_errors(
    x: tf.Tensor, weights: tf.Tensor, scale: tf.Tensor, lowest: tf.Tensor, highest: tf.Tensor
) -> tf.Tensor:
    """sum weights (x - Q(x))^2 for every grid scale * {lowest..highest}, one row of grids at a time."""

    def row(grids):
        scales, first, last = (tf.expand_dims(a, 1) for a in grids)
        rounded = tf.clip_by_value(tf.round(x / scales), first, last)
        return tf.linalg.matvec(tf.square(x - rounded * scales), weights)

    return tf.map_fn(row, (scale, lowest, highest), fn_output_signature=tf.float32)


def _search_sample(x: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """SEARCH_SAMPLES values of the vector x, and how many values of x each represents."""
    if x.size <= SEARCH_SAMPLES:
        padding = SEARCH_SAMPLES - x.size  # zeros are exact on every grid
        return np.pad(x, (0, padding)), np.pad(np.ones(x.size), (0, padding))
    random = np.random.default_rng(seed)
    x = np.partition(x, (_TAIL, x.size - _TAIL - 1))
    middle = x[_TAIL:-_TAIL]
    drawn = SEARCH_SAMPLES - 2 * _TAIL
    values = np.concatenate([x[:_TAIL], random.choice(middle, drawn, replace=False), x[-_TAIL:]])
    weights = np.ones(SEARCH_SAMPLES)
    weights[_TAIL:-_TAIL] = middle.size / drawn
    return values, weights


def _rows(a: np.ndarray, length: int) -> np.ndarray:
    """The vector `a` in rows of `length`. The last row is padded with the last element."""
    return np.pad(a, (0, -a.size % length), mode="edge").reshape(-1, length)


def _finite(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x).ravel()
    if x.dtype != np.float32:
        x = x.astype(np.float64)
    if x.size == 0:
        raise ValueError("there are no samples to choose a range from; pass at least one value.")
    if not np.isfinite(x).all():
        raise ValueError("the samples contain NaN or infinity; check the model's weights and inputs.")
    return x
