"""The map between real values and the integers of a TFLite file.

q       = clip(round(x / S) + Z, qmin, qmax)          round half to even
Q(x)    = S * (q - Z)
so that |x - Q(x)| <= S / 2 for every x between S * (qmin - Z) and S * (qmax - Z), and Q(0) == 0.

Sources: Jacob et al. 2018, arXiv 1712.05877, eq. 1; Horton et al. 2021, eq. 13-14, here with the zero point rounded to
an integer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import EllipsisType

import numpy as np

# The smallest scale that a float32 holds with full precision. Smaller scales would lose digits or become zero.
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)

# Values that are converted to float64 at a time.
_PART_VALUES = 2**22


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Affine map between real values and integers: x = scale * (q - zero_point).

    Holds for every instance: scale > 0, finite, and a float32 value, as in a TFLite file; qmin <= zero_point <= qmax;
    0.0 is represented exactly. If `channel_axis` is None, scale and zero_point are a float and an int. Otherwise they are
    read-only float32 and int64 vectors of one length along that axis.

    Attributes:
        scale: Distance S between the real values of neighbouring integers; rounded to float32.
        zero_point: The integer that stands for 0.0; an int is repeated for every channel.
        bits: Width of the integers, 2 to 32.
        channel_axis: Axis of x along which scale and zero_point run; None for one of each.
        signed: Whether integers start at -2**(bits - 1), as TFLite stores them, or at 0.
        narrow_range: Whether the lowest integer is unused, which makes a signed grid symmetric.
    """

    scale: float | np.ndarray
    zero_point: int | np.ndarray
    bits: int
    channel_axis: int | None = None
    signed: bool = True
    narrow_range: bool = False

    def __post_init__(self):
        _check_bits(self.bits)
        with np.errstate(over="ignore"):
            scale = np.array(self.scale, np.float64).astype(np.float32)
        if not np.all((scale > 0) & np.isfinite(scale)):
            raise ValueError(f"scale is {self.scale}; every scale must be positive and finite as a float32.")
        unrounded = np.asarray(self.zero_point)
        zero_point = unrounded.astype(np.int64)
        if np.any(zero_point != unrounded) or np.any(zero_point < self.qmin) or np.any(zero_point > self.qmax):
            raise ValueError(f"zero_point is {self.zero_point}; it must be an integer in [{self.qmin}, {self.qmax}].")
        if scale.ndim != (self.channel_axis is not None) or zero_point.shape not in ((), scale.shape):
            raise ValueError(
                f"scale has shape {scale.shape} and zero_point {zero_point.shape} for channel_axis="
                f"{self.channel_axis}; give scalars for None and vectors of one length for an axis."
            )
        if self.channel_axis is None:
            object.__setattr__(self, "scale", float(scale))
            object.__setattr__(self, "zero_point", int(zero_point))
            return
        zero_point = np.broadcast_to(zero_point, scale.shape).copy()
        scale.flags.writeable = zero_point.flags.writeable = False
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zero_point)

    def __eq__(self, other) -> bool:
        if not isinstance(other, Quantizer):
            return NotImplemented
        return (
            np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
            and (self.bits, self.channel_axis, self.signed, self.narrow_range)
            == (other.bits, other.channel_axis, other.signed, other.narrow_range)
        )

    @property
    def qmin(self) -> int:
        """The lowest integer."""
        return (-(2 ** (self.bits - 1)) if self.signed else 0) + int(self.narrow_range)

    @property
    def qmax(self) -> int:
        """The highest integer."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def dtype(self) -> np.dtype:
        """The smallest integer type that holds qmin to qmax, e.g. int8 for 8 or 4 bits."""
        width = next(w for w in (8, 16, 32) if self.bits <= w)
        return np.dtype(f"{'int' if self.signed else 'uint'}{width}")

    @property
    def low(self) -> float | np.ndarray:
        """The lowest real value that is represented; a float64 vector if per channel."""
        return np.float64(self.scale) * (self.qmin - self.zero_point)

    @property
    def high(self) -> float | np.ndarray:
        """The highest real value that is represented; a float64 vector if per channel."""
        return np.float64(self.scale) * (self.qmax - self.zero_point)

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Integers of `x`, same shape, of type `dtype`; values outside [low, high] are clipped.

        Raises:
            ValueError: x has a NaN, which no integer stands for, or the wrong number of channels.
        """
        x = np.asarray(x)
        scale, zero_point = self._along(x)
        q = np.empty(x.shape, self.dtype)
        for part in _parts(x):
            exact = np.clip(np.rint(x[part].astype(np.float64) / scale[part]) + zero_point[part], self.qmin, self.qmax)
            if np.isnan(exact).any():
                raise ValueError("the values to quantize contain NaN; check the model's weights and inputs for NaN.")
            q[part] = exact
        return q

    def dequantize(self, q: np.ndarray) -> np.ndarray:
        """The float32 values of the integers `q`, same shape."""
        q = np.asarray(q)
        scale, zero_point = self._along(q)
        x = np.empty(q.shape, np.float32)
        for part in _parts(q):
            x[part] = scale[part] * (q[part].astype(np.float64) - zero_point[part])
        return x

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The float32 values that `x` has after quantization: Q(x)."""
        return self.dequantize(self.quantize(x))

    def _along(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float64 scale and zero point in the shape of x."""
        scale, zero_point = np.asarray(self.scale, np.float64), np.asarray(self.zero_point, np.float64)
        if self.channel_axis is None:
            return np.broadcast_to(scale, x.shape), np.broadcast_to(zero_point, x.shape)
        if not -x.ndim <= self.channel_axis < x.ndim or x.shape[self.channel_axis] != scale.size:
            raise ValueError(
                f"x has shape {x.shape}; this quantizer needs {scale.size} channels on axis {self.channel_axis}."
            )
        shape = [1] * x.ndim
        shape[self.channel_axis] = scale.size
        return np.broadcast_to(scale.reshape(shape), x.shape), np.broadcast_to(zero_point.reshape(shape), x.shape)


def _parts(x: np.ndarray) -> Iterator[slice | EllipsisType]:
    """Indices that together cover x, so that only a part of a large kernel is copied to float64 at a time."""
    if x.size <= _PART_VALUES:
        yield ...
        return
    rows = max(1, _PART_VALUES * len(x) // x.size)
    for start in range(0, len(x), rows):
        yield slice(start, start + rows)


def nudged_grid(
    low: np.ndarray, high: np.ndarray, bits: int = 8, symmetric: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Scale S and zero point Z of signed grids for the ranges [low, high], elementwise.

    l = min(low, 0), h = max(high, 0); S = (h - l) / (2**bits - 1) and Z = round(-l / S) - 2**(bits - 1), so that 0.0 is
    exact and both ends move by at most S / 2. Symmetric: S = max(-l, h) / (2**(bits - 1) - 1) and Z = 0.
    A range of width 0 belongs to a tensor of zeros, for which any scale is right. It is treated as [0, 1].

    Args:
        low, high: Broadcastable arrays of finite values.
    Returns:
        (S, Z): float64 array of float32 values, and int64 array.
    """
    _check_bits(bits)
    low, high = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    if not np.all((low <= high) & (np.maximum(-low, high) <= np.finfo(np.float32).max)):
        raise ValueError(f"the range is [{low}, {high}]; both ends must be finite float32 values and in this order.")
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    high = np.where(low == high, 1.0, high)
    scale = np.maximum(-low, high) / (2 ** (bits - 1) - 1) if symmetric else (high - low) / (2**bits - 1)
    scale = np.maximum(scale, SMALLEST_SCALE).astype(np.float32).astype(np.float64)
    if symmetric:
        return scale, np.zeros(scale.shape, np.int64)
    levels_below_zero = np.clip(np.rint(-low / scale), 0, 2**bits - 1)
    return scale, levels_below_zero.astype(np.int64) - 2 ** (bits - 1)


def activation_quantizer(low: float, high: float, bits: int = 8, symmetric: bool = False) -> Quantizer:
    """Signed quantizer of one tensor whose values lie in [low, high], extended to contain 0; see `nudged_grid`.

    Guarantees |x - Q(x)| <= scale / 2 for every x in [low, high].
    Args:
        low, high: Finite, low <= high; anything else is a ValueError.
        bits: 8 for int8; 16 with `symmetric` for TFLite's int16.
        symmetric: Zero point 0, as TFLite requires for int16 activations.
    """
    scale, zero_point = nudged_grid(np.asarray(low), np.asarray(high), bits, symmetric)
    return Quantizer(float(scale), int(zero_point), bits)


def asymmetric_weight_quantizer(w: np.ndarray, bits: int = 8, channel_axis: int | None = None) -> Quantizer:
    """Quantizer of `w` between its smallest and largest value, both extended to contain 0; see `nudged_grid`.

    Guarantees |w - Q(w)| <= scale / 2, elementwise. For simulations only, because TFLite stores symmetric weights. A
    channel of zeros gets the scale of the whole tensor.
    Args:
        w: Float array of any shape, finite.
        channel_axis: One scale and zero point per index of this axis; None for one of each in all.
    Source: Horton et al. 2021, eq. 13-14, with the zero point rounded to an integer.
    """
    w = np.asarray(w)
    if not np.isfinite(w).all():
        raise ValueError("the weights contain NaN or infinity; repair or retrain the model first.")
    per_tensor = activation_quantizer(float(w.min(initial=0.0)), float(w.max(initial=0.0)), bits)
    if channel_axis is None:
        return per_tensor
    other_axes = tuple(axis for axis in range(w.ndim) if axis != channel_axis % w.ndim)
    low, high = w.min(axis=other_axes, initial=0.0), w.max(axis=other_axes, initial=0.0)
    scale, zero_point = nudged_grid(low, high, bits)
    empty = low == high
    return Quantizer(
        np.where(empty, per_tensor.scale, scale), np.where(empty, per_tensor.zero_point, zero_point), bits, channel_axis
    )


def weight_quantizer(w: np.ndarray, bits: int = 8, channel_axis: int | None = None) -> Quantizer:
    """Symmetric narrow-range quantizer of `w`: zero point 0, integers in +-(2**(bits - 1) - 1), S = max|w| / qmax.

    Guarantees |w - Q(w)| <= scale / 2, elementwise. A channel of zeros gets the scale of the whole tensor, so that its
    bias still has a scale of ordinary size. A tensor of zeros gets 1 / qmax.
    Args:
        w: Float array of any shape, finite.
        channel_axis: One scale per index of this axis; None for one scale in all.
    """
    _check_bits(bits)
    magnitude = np.abs(np.asarray(w))
    if not np.isfinite(magnitude).all():
        raise ValueError("the weights contain NaN or infinity; repair or retrain the model first.")
    qmax = 2 ** (bits - 1) - 1
    tensor_scale = float(magnitude.max(initial=0.0)) / qmax
    if tensor_scale < SMALLEST_SCALE:
        tensor_scale = 1.0 / qmax
    if channel_axis is None:
        return Quantizer(tensor_scale, 0, bits, narrow_range=True)
    other_axes = tuple(axis for axis in range(magnitude.ndim) if axis != channel_axis % magnitude.ndim)
    scale = magnitude.max(axis=other_axes, initial=0.0).astype(np.float64) / qmax
    scale = np.where(scale < SMALLEST_SCALE, tensor_scale, scale)
    return Quantizer(scale, 0, bits, channel_axis, narrow_range=True)


def _check_bits(bits: int):
    if not (isinstance(bits, (int, np.integer)) and 2 <= bits <= 32):
        raise ValueError(f"bits is {bits!r}; choose an integer from 2 to 32.")
