"""Fixed-point multiplication as TFLite's integer kernels do it: a real factor becomes an integer and a shift.

factor = m 2^(shift - 31),  2^30 <= m < 2^31

    `rescale`          round(round(2^left x m / 2^31) / 2^right),  left = max(shift, 0), right = max(-shift, 0)
    `rescale_once`     (x m + 2^(30 - shift)) >> (31 - shift)
    `rescale_wide`     (x m' + 2^(14 - shift)) >> (15 - shift),    m' = m / 2^16, rounded

so that every runtime that follows the specification gets the same integers. Kernels differ in how they round. Most round twice,
which moves a value just below a half to the next integer. Some round once. Sums in 64 bits are multiplied by the upper half of m.
Sources: the TFLite 8-bit quantization specification; gemmlowp's documentation of its fixed-point arithmetic.
"""

import math
from dataclasses import dataclass

import numpy as np

_INT32 = np.iinfo(np.int32)
# The largest upper half of m.
_MOST_REDUCED = 0x7FFF


@dataclass(frozen=True)
class Factor:
    """Integers m and shift that stand for a real factor m 2^(shift - 31), or vectors of them, one per channel."""

    m: np.ndarray
    shift: np.ndarray

    @property
    def left(self) -> np.ndarray:
        return np.maximum(self.shift, 0)

    @property
    def right(self) -> np.ndarray:
        return np.maximum(-self.shift, 0)


def fixed_point(factor: float | np.ndarray) -> Factor:
    """The fixed-point form of `factor` >= 0, a float64 or a vector of them."""
    pairs = [_one(float(f)) for f in np.atleast_1d(np.asarray(factor, np.float64))]
    m, shift = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    return Factor(m, shift) if np.ndim(factor) else Factor(m[0], shift[0])


def _one(factor: float) -> tuple[int, int]:
    if factor == 0:
        return 0, 0
    mantissa, shift = math.frexp(factor)
    m = math.floor(mantissa * 2**31 + 0.5)
    if m == 2**31:
        m, shift = m // 2, shift + 1
    return (0, 0) if shift < -31 else (m, shift)


def rescale(x: np.ndarray, factor: Factor) -> np.ndarray:
    """x times the factor, as 8-bit kernels compute it from int32 accumulators; int64 array of the shape of `x`."""
    x = np.asarray(x, np.int64) << factor.left
    return rounding_shift(doubling_high_product(x, factor.m), factor.right)


def rescale_once(x: np.ndarray, factor: Factor) -> np.ndarray:
    """x times the factor, rounded once, halves up; int64 array of the shape of `x`."""
    shift = 31 - factor.shift
    return (np.asarray(x, np.int64) * factor.m + (np.int64(1) << (shift - 1))) >> shift


def rescale_wide(x: np.ndarray, factor: Factor) -> np.ndarray:
    """x times the factor, as 16-bit kernels compute it from int64 accumulators; int64 array of the shape of `x`."""
    reduced = np.where(factor.m < 0x7FFF0000, (factor.m + (1 << 15)) >> 16, _MOST_REDUCED)
    shift = 15 - factor.shift
    return (np.asarray(x, np.int64) * reduced + (np.int64(1) << (shift - 1))) >> shift


def doubling_high_product(x: np.ndarray, m: np.ndarray | int) -> np.ndarray:
    """x m / 2^31 rounded to nearest, halves up; x and m are int32 values in int64, one of them not -2^31."""
    product = np.asarray(x, np.int64) * m
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    # Division that rounds towards zero.
    return np.clip(np.sign(nudged) * (np.abs(nudged) >> 31), _INT32.min, _INT32.max)


def rounding_shift(x: np.ndarray, bits: np.ndarray | int) -> np.ndarray:
    """x / 2^bits rounded to nearest, halves away from zero."""
    x, bits = np.asarray(x, np.int64), np.asarray(bits, np.int64)
    rest, half = x & ((np.int64(1) << bits) - 1), ((np.int64(1) << bits) - 1) >> 1
    return (x >> bits) + (rest > half + (x < 0))


def rounded_quotient(x: np.ndarray, divisor: np.ndarray | int) -> np.ndarray:
    """x / divisor (> 0) rounded to nearest, halves away from zero; int64."""
    x = np.asarray(x, np.int64)
    return np.sign(x) * ((np.abs(x) + divisor // 2) // divisor)
