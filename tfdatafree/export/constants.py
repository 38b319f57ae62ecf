"""Integer weights and biases of one operator, as TFLite stores them."""

from dataclasses import dataclass

import numpy as np

from tfdatafree.numerics.affine import SMALLEST_SCALE, Quantizer

# The largest integer bias. It is a part of int32 only, which leaves room for the sum of products.
_BIAS_LIMIT = 2**30
# The integer bias of a channel without weights: precise enough for any output.
_BIAS_ONLY = 2**20


@dataclass(frozen=True)
class Constant:
    """Integers of a constant tensor in TFLite's layout, and their grid."""

    values: np.ndarray
    quantizer: Quantizer


def fit_bias(kernel: Constant, bias: np.ndarray, input_scale: float) -> tuple[Constant, int]:
    """`kernel` with scales so large that the bias fits into 32 bits, and suitable ones for channels that have only a bias.

    Args:
        bias: Float bias, (outputs,).
        input_scale: Scale of the operator's input; the smallest one if several operators share the kernel.

    Returns:
        The kernel, and the number of scales that had to be raised.
    """
    quantizer, values = kernel.quantizer, kernel.values
    scale = np.atleast_1d(np.asarray(quantizer.scale, np.float64))
    magnitude = np.abs(bias.astype(np.float64))
    if quantizer.channel_axis is None:
        magnitude = magnitude.max(initial=0.0, keepdims=True)
        empty = np.array([not values.any()])
    else:
        axes = tuple(axis for axis in range(values.ndim) if axis != quantizer.channel_axis)
        empty = np.logical_not(values.any(axis=axes))
    overflow = magnitude / (input_scale * scale) > _BIAS_LIMIT
    new_scale = np.where(overflow, magnitude / (input_scale * _BIAS_LIMIT), scale)
    new_scale = np.where(empty & (magnitude > 0), magnitude / (input_scale * _BIAS_ONLY), new_scale)
    # The bias has the scale input_scale * kernel scale, which a float32 must hold, too. Such weights are zeros then.
    new_scale = np.maximum(new_scale, 2 * SMALLEST_SCALE / input_scale)
    if np.array_equal(new_scale, scale):
        return kernel, 0
    if quantizer.channel_axis is None:
        new_scale = new_scale[0]
    fitted = Quantizer(new_scale, 0, quantizer.bits, quantizer.channel_axis, narrow_range=True)
    return Constant(fitted.quantize(quantizer.dequantize(values)), fitted), int((overflow & ~empty).sum())


def integer_bias(bias: np.ndarray, kernel: Constant, input_scale: float, activation_bits: int) -> Constant:
    """The bias on the scale input_scale * kernel scale: int32, or int64 with 16-bit activations."""
    scale = np.float64(input_scale) * np.asarray(kernel.quantizer.scale, np.float64)
    dtype = "int32" if activation_bits == 8 else "int64"
    limits = np.iinfo(dtype)
    integers = np.clip(np.rint(bias / scale), limits.min, limits.max).astype(dtype)
    return Constant(integers, Quantizer(scale, 0, 32, None if scale.ndim == 0 else 0))
