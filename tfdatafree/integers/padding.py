"""Zeros around the input of a window that moves over it, as TFLite places them.

SAME   reach = (ceil(size / stride) - 1) stride + (window - 1) dilation + 1,   max(reach - size, 0) zeros, half of them before,
       the odd one after
VALID  none
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

_SAME = 0  # as the schema numbers it


def padded(x: np.ndarray, options: Any, window: Sequence[int], dilations: Sequence[int] = (1, 1)) -> np.ndarray:
    """x (batch, rows, columns, channels) with the zeros that the operator's `options` ask for."""
    if options.padding != _SAME:
        return x
    axes = zip(x.shape[1:3], window, (options.strideH, options.strideW), dilations, strict=True)
    return np.pad(x, ((0, 0), *(_around(*axis) for axis in axes), (0, 0)))


def _around(size: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after an axis."""
    reach = (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1
    total = max(reach - size, 0)
    return total // 2, total - total // 2
