"""Kernels of averages.

AVERAGE_POOL_2D   y = clip(round(sum x / n)), n without padding, halves away from zero; the grid stays
MEAN              y = Z + rescale(sum (x - Z_x), S_x / (S n))
"""

import math

import numpy as np

from tfdatafree.integers.operation import Operation, activation_range
from tfdatafree.integers.padding import padded
from tfdatafree.numerics.fixed_point import Factor, fixed_point, rescale, rounded_quotient


def average_pool_2d(operation: Operation) -> list[np.ndarray]:
    x, counts = operation.values(0), np.ones((1, *operation.values(0).shape[1:3], 1), np.int64)
    total, count = (sum(part for part in _windows(operation, array)) for array in (x, counts))
    low, high = activation_range(operation.target, operation.options.fusedActivationFunction)
    return [np.clip(rounded_quotient(total, count), low, high).astype(operation.dtypes[0])]


def _windows(operation: Operation, x: np.ndarray):
    """What each place of the window sees, (batch, *output size, channels), zero in the padding."""
    options, (rows, columns) = operation.options, operation.shapes[0][1:3]
    window, strides = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
    x = padded(x, options, window)
    for row in range(window[0]):
        for column in range(window[1]):
            ends = row + (rows - 1) * strides[0] + 1, column + (columns - 1) * strides[1] + 1
            yield x[:, row : ends[0] : strides[0], column : ends[1] : strides[1]]


def mean(operation: Operation) -> list[np.ndarray]:
    totals, count = _sums(operation)
    factor = np.float64(operation.scale(0)) / np.float64(np.float32(operation.target.scale))
    centred = totals - operation.zero_point(0) * count
    return [operation.written(rescale(centred, _divided(fixed_point(factor), count)))]


def _sums(operation: Operation) -> tuple[np.ndarray, int]:
    """Sums along the axes that the second input lists, and how many values each is of."""
    x = operation.values(0)
    axes = tuple({int(axis) % x.ndim for axis in np.ravel(operation.values(1))})
    return x.sum(axis=axes), math.prod(x.shape[axis] for axis in axes)


def _divided(factor: Factor, count: int) -> Factor:
    """The factor divided by `count` in 64-bit integers, with as many digits as fit."""
    shift = min(int(count).bit_length() - 1, 32, 31 + int(factor.shift))
    return Factor((factor.m << shift) // count, factor.shift - shift)


POOLING = {"AVERAGE_POOL_2D": average_pool_2d, "MEAN": mean}
