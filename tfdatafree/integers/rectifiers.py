"""Kernels of rectifiers that are operators of their own.

RELU, RELU6        y = clip(Z + rescale(x - Z_x, S_x / S), lowest, highest)
LEAKY_RELU         y = Z + rescale(x - Z_x, S_x / S), below 0 with the factor alpha S_x / S
PRELU              the same, below 0 with rescale((x - Z_x)(alpha - Z_alpha), S_x S_alpha / S)
"""

import numpy as np

from tfdatafree.integers.operation import Kernel, Operation, activation_range
from tfdatafree.numerics.fixed_point import fixed_point, rescale

# The schema's ActivationFunctionType.
_RELU, _RELU_N1_TO_1, _RELU6 = 1, 2, 3
_ONE = np.float32(1)


def _relu(activation: int) -> Kernel:
    def relu(operation: Operation) -> list[np.ndarray]:
        return [_clipped(operation, _rescaled(operation), activation_range(operation.target, activation))]

    return relu


def leaky_relu(operation: Operation) -> list[np.ndarray]:
    below = _rescaled(operation, np.float32(operation.options.alpha))
    return [_clipped(operation, np.where(_centred(operation, 0) >= 0, _rescaled(operation), below))]


def prelu(operation: Operation) -> list[np.ndarray]:
    x, target = _centred(operation, 0), np.float32(operation.target.scale)
    factor = fixed_point(np.float64(operation.scale(0) * operation.scale(1) / target))
    below = rescale(x * _centred(operation, 1), factor)
    return [_clipped(operation, np.where(x >= 0, _rescaled(operation), below))]


def _centred(operation: Operation, position: int) -> np.ndarray:
    return operation.values(position) - operation.zero_point(position)


def _rescaled(operation: Operation, slope: np.float32 = _ONE) -> np.ndarray:
    factor = operation.scale(0) * slope / np.float32(operation.target.scale)
    return rescale(_centred(operation, 0), fixed_point(np.float64(factor)))


def _clipped(operation: Operation, values: np.ndarray, ends: tuple[int, int] | None = None) -> np.ndarray:
    target = operation.target
    return np.clip(values + int(target.zero_point), *(ends or (target.qmin, target.qmax))).astype(operation.dtypes[0])


RECTIFIERS: dict[str, Kernel] = {
    "RELU": _relu(_RELU),
    "RELU6": _relu(_RELU6),
    "RELU_N1_TO_1": _relu(_RELU_N1_TO_1),
    "LEAKY_RELU": leaky_relu,
    "PRELU": prelu,
}
