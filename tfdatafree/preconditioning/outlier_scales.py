"""Scales that take outliers out of two kernels with one step each, where a capped activation stands between them.

Layer A writes channels c, y = min(h(.), m) caps them, layer B reads them. Channel c is scaled by s_c > 0, and the weights that
read it are divided by s_c. This moves its cap from m to m / s_c and changes nothing else. A weight far larger than its neighbours
decides the step of the whole kernel, so moving the caps of a few channels can pay. The scales minimise the sum of the
expected squared errors

    of rounding     e_A(s) + e_B(s), each sum_o w_o (dW_o)^T H dW_o as in `weight_scales.py`, with the largest weight as range
    of the cap      sum_c h_c E (min(t y_c, m / s_c) - min(t y_c, m))^2

where w and h say what the next layers make of an error (`importance.py`). t = 1.5, because real inputs reach farther than
generated ones. Several largest weights are tried, down to a tenth of the present one. First channels with larger weights in B are
scaled up. Then those with larger weights in A are scaled down. s = 1 is tried, too, so that the sum never gets larger.
"""

from dataclasses import dataclass

import numpy as np

from tfdatafree.numerics.second_moment import output_errors

_FRACTIONS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1)
# t: values on real inputs are expected to be this many times as large as on generated ones.
_BEYOND = 1.5


@dataclass(frozen=True)
class Side:
    """A kernel on one side of the activation.

    Attributes:
        matrix: As `kernels.output_last` gives it, (rows, outputs).
        covariance: Covariance of its inputs, (groups, inputs, inputs).
        importance: Weight of each output's squared error, (outputs,).
        depthwise: Whether each output reads one channel.
    """

    matrix: np.ndarray
    covariance: np.ndarray
    importance: np.ndarray
    depthwise: bool

    def written(self) -> np.ndarray:
        """Largest weight that writes each channel, (outputs,)."""
        return np.abs(self.matrix).max(axis=0)

    def read(self, channels: int) -> np.ndarray:
        """Largest weight that reads each channel, (channels,)."""
        if self.depthwise:
            return self.written()
        return np.abs(self.matrix).reshape(-1, channels, self.matrix.shape[1]).max(axis=(0, 2))

    def error_with_outputs(self, scale: np.ndarray, bits: int) -> float:
        """Error of rounding the kernel with its outputs multiplied by `scale`, after they are divided by it again."""
        return self._error(scale[None, :], bits)

    def error_with_inputs(self, scale: np.ndarray, bits: int) -> float:
        """Error of rounding the kernel divided by `scale` along its inputs, which are multiplied by it."""
        if self.depthwise:
            return self._error(1 / scale[None, :], bits)
        return self._error(1 / np.tile(scale, len(self.matrix) // len(scale))[:, None], bits)

    def _error(self, factor: np.ndarray, bits: int) -> float:
        scaled = self.matrix * factor
        step = max(np.abs(scaled).max() / (2 ** (bits - 1) - 1), 1e-30)
        change = (np.rint(scaled / step) * step - scaled) / factor
        return float(np.sum(self.importance * output_errors(change, self.covariance)))


def outlier_scales(
    before: Side, after: Side, values: np.ndarray, cap: float, importance: np.ndarray, *, bits: int = 8
) -> np.ndarray:
    """s of the module's docstring, (channels,).

    Args:
        before, after: The kernels of A and of B.
        values: Samples before the cap, (rows, channels).
        cap: m.
        importance: h, weight of a squared error in each channel after the cap, (channels,).
        bits: Bits of the weights.
    """

    def error(scale: np.ndarray) -> float:
        moved = np.flatnonzero(scale != 1)
        reached = np.maximum(_BEYOND * values[:, moved], 0)
        lost = np.minimum(reached, cap / scale[moved]) - np.minimum(reached, cap)
        of_cap = float(np.sum(importance[moved] * np.square(lost).mean(axis=0)))
        return before.error_with_outputs(scale, bits) + after.error_with_inputs(scale, bits) + of_cap

    def best(tried: list[np.ndarray]) -> np.ndarray:
        return tried[int(np.argmin([error(scale) for scale in tried]))]

    ones = np.ones(values.shape[1])
    read = after.read(len(ones))
    scale = best([ones, *(np.maximum(read / max(part * read.max(), 1e-30), 1) for part in _FRACTIONS)])
    written = np.maximum(before.written() * scale, 1e-30)
    return best([scale, *(scale * np.minimum(part * written.max() / written, 1) for part in _FRACTIONS)])
