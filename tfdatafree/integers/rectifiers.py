"""Kernels of rectifiers that are operators of their own.

RELU, RELU6        y = clip(Z + rescale(x - Z_x, S_x / S), lowest, highest)
LEAKY_RELU         y = Z + rescale(x - Z_x, S_x / S), below 0 with the factor alpha S_x / S
PRELU              the same, below 0 with rescale((x - Z_x)(alpha - Z_alpha), S_x S_alpha / S)
"""

import numpy as np

from tfdatafree.integers.operation import Kernel, Operation
from tfdatafree.numerics.fixed_point import fixed_point, rescale

# The schema's ActivationFunctionType.
_RELU, _RELU_N1_TO_1, _RELU6 = 1, 2, 3
_ONE = np.float32(1)


def _relu(activation: int) -> Kernel:
    def relu(operation: Operation) -> list[np.ndarray]:
        return [operation.written(_rescaled(operation), activation)]

    return relu


def leaky_relu(operation: Operation) -> list[np.ndarray]:
    below = _rescaled(operation, np.float32(operation.options.alpha))
    return [operation.written(np.where(operation.centred(0) >= 0, _rescaled(operation), below))]


def prelu(operation: Operation) -> list[np.ndarray]:
    x, target = operation.centred(0), np.float32(operation.target.scale)
    factor = fixed_point(np.float64(operation.scale(0) * operation.scale(1) / target))
    below = rescale(x * operation.centred(1), factor)
    return [operation.written(np.where(x >= 0, _rescaled(operation), below))]


def _rescaled(operation: Operation, slope: np.float32 = _ONE) -> np.ndarray:
    factor = operation.scale(0) * slope / np.float32(operation.target.scale)
    return rescale(operation.centred(0), fixed_point(np.float64(factor)))


RECTIFIERS: dict[str, Kernel] = {
    "RELU": _relu(_RELU),
    "RELU6": _relu(_RELU6),
    "RELU_N1_TO_1": _relu(_RELU_N1_TO_1),
    "LEAKY_RELU": leaky_relu,
    "PRELU": prelu,
}
