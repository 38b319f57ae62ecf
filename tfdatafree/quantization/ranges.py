"""Range [low, high] of an activation tensor, from samples of it or from BatchNorm statistics."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from scipy import optimize, special

from tfdatafree.numerics.affine import nudged_grid
from tfdatafree.numerics.range import Range

# Size of the sample on which `search_range` compares grids: fixed, so that its tf.function is traced once.
SEARCH_SAMPLES = 2048
# Of these, the values at each end of the distribution that are kept one by one; the rest stand for many.
_TAIL = 256


def min_max(x: np.ndarray) -> Range:
    """Range from the smallest to the largest value of `x` (any shape, finite, not empty), extended to contain 0."""
    x = _finite(x)
    return Range(min(x.min(), 0.0), max(x.max(), 0.0))


def of_levels(low: float, high: float) -> Range:
    """Range whose 8-bit grid comes nearest to the levels low + k (high - low) / 255, k = 0..255, of an 8-bit image.

    The plain grid of [-1, 1] has its steps halfway between these levels, because 0.0 must be exact: every pixel is half a
    step off, and it is left to chance which way. A step wider by up to a hundredth spreads the levels over the steps.
    """
    levels = np.linspace(low, high, 256)
    candidates = [Range(low * stretch, high * stretch) for stretch in 1 + np.arange(11) / 1024]
    scale, zero_point = nudged_grid(np.array([r.low for r in candidates]), np.array([r.high for r in candidates]))
    steps = np.clip(np.rint(levels[:, None] / scale), -128 - zero_point, 127 - zero_point)
    errors = np.mean(np.square(levels[:, None] - steps * scale), axis=0)
    return candidates[int(np.argmin(errors))]


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
    """Range of a tensor whose channels are activation(N(mean, sd^2)), k standard deviations to either side.

    The lowest mean - k sd and the highest mean + k sd of all channels, and what the activation makes of the reals
    between them; extended to contain 0.
    Args:
        mean, sd: Float vectors (channels,): a BatchNorm's beta and the standard deviation of its output.
        activation: Elementwise function of a float64 vector; None for none.
    Source: Nagel et al. 2019, arXiv 1906.04721, section 5 (k = 6).
    """
    mean, sd = np.asarray(mean, np.float64), np.asarray(sd, np.float64)
    if not k > 0 or np.any(sd < 0):
        raise ValueError(f"k is {k} and the lowest sd {sd.min(initial=0.0)}; k must be positive and no sd negative.")
    # Points between the ends too: swish and its kind have their minimum there.
    ends = np.linspace((mean - k * sd).min(), (mean + k * sd).max(), 1001)
    return min_max(ends if activation is None else np.asarray(activation(ends), np.float64))


def aciq(x: np.ndarray, bits: int = 8) -> Range:
    """Range that analytic clipping gives `x`: the alpha that minimises clipping plus rounding error of a fitted density.

    The density is Laplace's or the normal one, whichever makes x more likely; the range is mean +- alpha, within min and
    max. Values without negatives are what a ReLU left of a density around 0: alpha of the positive ones, and the one side
    has all the steps.
    Args:
        x: Float array of any shape, finite, not empty.
    Source: Banner et al. 2019, arXiv 1810.05723, eq. 6-9 and A6.
    """
    x = _finite(x).astype(np.float64)
    seen = min_max(x)
    one_sided = x.min() >= 0
    values = x[x > 0] if one_sided else x
    if not values.size or values.min() == values.max():
        return seen
    middle = 0.0 if one_sided else float(values.mean())
    spread, sd = np.abs(values - middle).mean(), np.sqrt(np.square(values - middle).mean())
    # log-likelihoods of the best fits: -ln(2 spread) - 1 and -ln(sd sqrt(2 pi e))
    laplace = np.log(2 * spread) + 1 < np.log(sd * np.sqrt(2 * np.pi * np.e))
    alpha = spread * _laplace_alpha(bits + one_sided) if laplace else sd * _normal_alpha(bits + one_sided)
    low, high = max(seen.low, min(middle - alpha, 0.0)), min(seen.high, max(middle + alpha, 0.0))
    return Range(low, high)


@functools.cache
def _laplace_alpha(bits: int) -> float:
    """argmin over a of 2 exp(-a) + a^2 / (3 4^bits): in units of the mean distance from the mean."""
    return optimize.brentq(lambda a: a / (3 * 4.0**bits) - np.exp(-a), 0, 100)


@functools.cache
def _normal_alpha(bits: int) -> float:
    """argmin over a of (a^2 + 1) erfc(a / sqrt 2) - a sqrt(2 / pi) exp(-a^2 / 2) + a^2 / (3 4^bits): in deviations."""
    return optimize.brentq(
        lambda a: a * special.erfc(a / np.sqrt(2)) - np.sqrt(2 / np.pi) * np.exp(-a * a / 2) + a / (3 * 4.0**bits),
        0,
        100,
    )


def search_range(x: np.ndarray, bits: int = 8, steps: int = 100, *, symmetric: bool = False, seed: int = 0) -> Range:
    """Range whose grid of `bits` bits is nearest to `x`: the (l, h) that minimise ||x - Q(x)||_2.

    Compares all l in {i/N min(x_min, 0)} and h in {j/N max(x_max, 0)}, i, j = 1..N with N = steps, each by the grid
    that `activation_quantizer(l, h, bits, symmetric)` gives it; the first of equals wins, the narrowest h before the
    narrowest l. So up to SEARCH_SAMPLES values, the error is never larger than that of `min_max(x)`. Of a larger x the
    extreme values count one by one and the others through a random sample that stands for them.
    Args:
        x: Float array of any shape, finite, not empty.
        symmetric: Compare grids with zero point 0, as for int16; h = -l then, in steps of max|x| / N.
        seed: Of the sample that is drawn when x is large; the same seed gives the same range.
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
        # A side without values has one candidate: the N of the figure are all 0 there.
        lows = widest.low * fractions if widest.low < 0 else np.zeros(1)
        highs = widest.high * fractions if widest.high > 0 else np.zeros(1)
        lows, highs = (grid.ravel() for grid in np.meshgrid(lows, highs))
    scale, zero_point = nudged_grid(lows, highs, bits, symmetric)
    values, weights = _search_sample(x, seed)
    # Relative to the magnitude: squares of float32 then neither overflow nor vanish.
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
    """sum weights (x - Q(x))^2 for every grid: scale * {lowest..highest}; a row of grids at a time."""

    def row(grids):
        step, first, last = (tf.expand_dims(a, 1) for a in grids)
        rounded = tf.clip_by_value(tf.round(x / step), first, last)
        return tf.linalg.matvec(tf.square(x - rounded * step), weights)

    return tf.map_fn(row, (scale, lowest, highest), fn_output_signature=tf.float32)


def _search_sample(x: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """SEARCH_SAMPLES values of the vector x, and how many values of x each stands for."""
    if x.size <= SEARCH_SAMPLES:
        missing = SEARCH_SAMPLES - x.size  # zeros are exact on every grid
        return np.pad(x, (0, missing)), np.pad(np.ones(x.size), (0, missing))
    random = np.random.default_rng(seed)
    x = np.partition(x, (_TAIL, x.size - _TAIL - 1))
    middle = x[_TAIL:-_TAIL]
    drawn = SEARCH_SAMPLES - 2 * _TAIL
    values = np.concatenate([x[:_TAIL], random.choice(middle, drawn, replace=False), x[-_TAIL:]])
    weights = np.ones(SEARCH_SAMPLES)
    weights[_TAIL:-_TAIL] = middle.size / drawn
    return values, weights


def _rows(a: np.ndarray, length: int) -> np.ndarray:
    """The vector `a` in rows of `length`, the last one filled up with its last element."""
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
