"""Integer weights and biases of one operator, as TFLite stores them."""

from dataclasses import dataclass

import numpy as np

from tfdatafree.numerics.affine import Quantizer

# |bias| in integer steps stays below this fraction of int32, leaving room for the sum of products.
_BIAS_LIMIT = 2**30
# Steps that the bias of a channel without weights gets: its magnitude in 2**20 steps is exact enough for any output.
_BIAS_ONLY_STEPS = 2**20


@dataclass(frozen=True)
class Constant:
    """Integers of a constant tensor in TFLite's layout, and their grid."""

    values: np.ndarray
    quantizer: Quantizer


def fit_bias(kernel: Constant, bias: np.ndarray, input_scale: float) -> tuple[Constant, int]:
    """`kernel` with steps so large that the bias fits into 32 bits, and fine enough where only a bias is left.

    Args:
        bias: Real bias, (outputs,).
        input_scale: Step of the operator's input; the smallest, where several operators share the kernel.

    Returns:
        The kernel, and the number of steps that had to be raised.
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
    wanted = np.where(overflow, magnitude / (input_scale * _BIAS_LIMIT), scale)
    wanted = np.where(empty & (magnitude > 0), magnitude / (input_scale * _BIAS_ONLY_STEPS), wanted)
    if np.array_equal(wanted, scale):
        return kernel, 0
    new_scale = float(wanted[0]) if quantizer.channel_axis is None else wanted
    fitted = Quantizer(new_scale, 0, quantizer.bits, quantizer.channel_axis, narrow_range=True)
    return Constant(fitted.quantize(quantizer.dequantize(values)), fitted), int((overflow & ~empty).sum())


def integer_bias(bias: np.ndarray, kernel: Constant, input_scale: float, activation_bits: int) -> Constant:
    """The bias in steps of input_scale * kernel scale: int32, or int64 beside 16-bit activations."""
    step = np.float64(input_scale) * np.asarray(kernel.quantizer.scale, np.float64)
    dtype = "int32" if activation_bits == 8 else "int64"
    limits = np.iinfo(dtype)
    integers = np.clip(np.rint(bias / step), limits.min, limits.max).astype(dtype)
    return Constant(integers, Quantizer(step, 0, 32, None if step.ndim == 0 else 0))
