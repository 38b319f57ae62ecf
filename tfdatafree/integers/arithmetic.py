"""Kernels of sums and products of tensors, and of changes of a grid.

ADD, SUB of 8 bits    y = Z + rescale(rescale(2^20 (a - Z_a), S_a / T) +- rescale(2^20 (b - Z_b), S_b / T), T / (2^20 S)),
                      T = 2 max(S_a, S_b)                                            with 2^15 for 16 bits
MUL                   y = Z + rescale((a - Z_a)(b - Z_b), S_a S_b / S)
QUANTIZE              y = Z + rescale(x - Z_x, S_x / S)
"""

import numpy as np

from tfdatafree.integers.operation import Operation
from tfdatafree.numerics.fixed_point import fixed_point, rescale

_LEFT = {8: 20, 16: 15}


def add(operation: Operation) -> list[np.ndarray]:
    return [_added(operation, 1)]


def subtract(operation: Operation) -> list[np.ndarray]:
    return [_added(operation, -1)]


def _added(operation: Operation, sign: int) -> np.ndarray:
    target = operation.target
    left = _LEFT[target.bits]
    scales = [operation.scale(position) for position in (0, 1)]
    twice = np.float64(2) * max(np.float64(scale) for scale in scales)
    parts = [
        rescale(operation.centred(position) << left, fixed_point(scale / twice))
        for position, scale in enumerate(map(np.float64, scales))
    ]
    total = rescale(
        parts[0] + sign * parts[1], fixed_point(twice / ((1 << left) * np.float64(np.float32(target.scale))))
    )
    return operation.written(total, operation.activation)


def multiply(operation: Operation) -> list[np.ndarray]:
    product = np.multiply(*(operation.centred(position) for position in (0, 1)))
    factor = operation.scale(0) * operation.scale(1) / np.float32(operation.target.scale)
    return [operation.written(rescale(product, fixed_point(np.float64(factor))), operation.activation)]


def quantize(operation: Operation) -> list[np.ndarray]:
    """QUANTIZE between two integer grids."""
    factor = np.float64(operation.scale(0)) / np.float64(np.float32(operation.target.scale))
    return [operation.written(rescale(operation.centred(0), fixed_point(factor)))]


ARITHMETIC = {"ADD": add, "SUB": subtract, "MUL": multiply, "QUANTIZE": quantize}
