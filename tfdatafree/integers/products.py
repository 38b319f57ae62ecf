"""Kernels of operators with weights: convolutions and dense layers.

acc_o  = b_o + sum (x - Z_x) w_o                                     int32, or int64 with 16-bit activations
y_o    = clip(Z_y + rescale(acc_o, S_x S_w,o / S_y), lowest, highest)
"""

from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.integers.operation import Operation, Unknown
from tfdatafree.integers.padding import padded
from tfdatafree.numerics.fixed_point import fixed_point, rescale, rescale_once, rescale_wide

_PADDINGS = ("SAME", "VALID")


def conv_2d(operation: Operation) -> list[np.ndarray]:
    options, kernel = operation.options, _weights(operation, 1)  # (outputs, rows, columns, inputs)
    x, kernel = _centred(operation, 0), np.moveaxis(kernel, 0, -1)
    groups = x.shape[-1] // kernel.shape[2]
    parts = [
        tf.nn.conv2d(
            inputs,
            weights,
            (options.strideH, options.strideW),
            _PADDINGS[options.padding],
            dilations=(options.dilationHFactor, options.dilationWFactor),
        ).numpy()
        for inputs, weights in zip(np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
    ]
    return [_rescaled(operation, np.concatenate(parts, -1), 0, 1, 2)]


def depthwise_conv_2d(operation: Operation) -> list[np.ndarray]:
    options, kernel, x = operation.options, _weights(operation, 1)[0], _centred(operation, 0)
    kernel = kernel.reshape(*kernel.shape[:2], x.shape[-1], -1)
    acc = _depthwise(x, kernel, options, (options.dilationHFactor, options.dilationWFactor))
    return [_rescaled(operation, acc, 0, 1, 2)]


def _depthwise(x: np.ndarray, kernel: np.ndarray, options: Any, dilations: tuple[int, int]) -> np.ndarray:
    rows, columns = options.strideH, options.strideW
    if rows == columns and (rows == 1 or max(dilations) == 1):
        strides = (1, rows, columns, 1)
        return tf.nn.depthwise_conv2d(x, kernel, strides, _PADDINGS[options.padding], dilations=dilations).numpy()
    # TensorFlow takes equal strides only, and none beside dilations: all positions are computed.
    x = padded(x, options, kernel.shape[:2], dilations)
    acc = tf.nn.depthwise_conv2d(x, kernel, (1, 1, 1, 1), "VALID", dilations=dilations).numpy()
    return acc[:, ::rows, ::columns]


def fully_connected(operation: Operation) -> list[np.ndarray]:
    kernel = _weights(operation, 1)  # (outputs, inputs)
    x = _centred(operation, 0).reshape(-1, kernel.shape[1])
    acc = np.asarray(x @ kernel.T)
    return [_rescaled(operation, acc, 0, 1, 2)]


def transpose_conv(operation: Operation) -> list[np.ndarray]:
    options, kernel = operation.options, _weights(operation, 1)  # (outputs, rows, columns, inputs)
    acc = tf.nn.conv2d_transpose(
        _centred(operation, 2),
        np.moveaxis(kernel, 0, 2),
        operation.shapes[0],
        (options.strideH, options.strideW),
        _PADDINGS[options.padding],
    ).numpy()
    return [_rescaled(operation, acc, 2, 1, 3)]


def batch_matmul(operation: Operation) -> list[np.ndarray]:
    options, first, second = operation.options, _centred(operation, 0), _centred(operation, 1)
    first = np.swapaxes(first, -1, -2) if options.adjX else first
    second = np.swapaxes(second, -1, -2) if options.adjY else second
    return [_rescaled(operation, first @ second, 0, 1, None)]


def _centred(operation: Operation, position: int) -> np.ndarray:
    """x - Z as float64, in which sums of integer products are exact up to 2^53."""
    return operation.centred(position).astype(np.float64)


def _weights(operation: Operation, position: int) -> np.ndarray:
    grid = operation.grid(position)
    if np.any(grid.zero_point):
        raise Unknown(f"{operation.name} with weights whose zero point is not 0")
    return operation.values(position).astype(np.float64)


def _rescaled(operation: Operation, acc: np.ndarray, source: int, kernel: int, bias: int | None) -> np.ndarray:
    acc = np.rint(acc).astype(np.int64)
    if bias is not None and operation.has(bias):
        acc = acc + operation.values(bias)
    scales, target = operation.grid(kernel).scale, operation.target
    product = np.float64(operation.scale(source)) * np.asarray(scales, np.float64)
    if operation.name in _ONE_PRODUCT and np.ndim(scales) == 0:
        # These kernels multiply both scales in float32 first.
        product = np.asarray(operation.scale(source) * np.float32(scales), np.float64)
    factor = fixed_point(product / np.float64(np.float32(target.scale)))
    if operation.name == "FULLY_CONNECTED":
        scaled = rescale_once(acc, factor)
    else:
        scaled = (rescale_wide if target.bits == 16 and _is_wide(operation, bias) else rescale)(acc, factor)
    return operation.written(scaled, operation.activation)


_ONE_PRODUCT = ("FULLY_CONNECTED", "BATCH_MATMUL")


def _is_wide(operation: Operation, bias: int | None) -> bool:
    """Whether a 16-bit kernel sums in 64 bits: it does unless the bias has 32."""
    if bias is None or not operation.has(bias):
        return True
    array = operation.inputs[bias]
    return array is not None and array.dtype == np.int64


PRODUCTS = {
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "FULLY_CONNECTED": fully_connected,
    "TRANSPOSE_CONV": transpose_conv,
    "BATCH_MATMUL": batch_matmul,
}
