"""Inverse square roots of 16-bit tensors, from two of the kernel's tables.

LiteRT interpolates RSQRT linearly between 257 points of x >= 0 that are 128 integers apart. Near 0, where most variances are, it
is wrong by any factor. So the integer file computes it twice: from x, and from x on a grid that is 64 times finer, which is
saturated beyond its end,

    RSQRT(x) = MINIMUM(RSQRT(x; S), RSQRT(QUANTIZE(x; S / 64); S / 64))

1 / sqrt(x) is convex, so a linear interpolation lies above it, the finer one nearer. Beyond its end the finer one stays at a
value that 1 / sqrt(x) has fallen below. (The kernel lowers each point by half the error in the middle behind it, at most 2 % of
the value from the second point on.) The first point, x = 0, has the largest value of the output's grid. No x but those that
round to 0 have an inverse root beyond sqrt(2 / S). So the grid ends there, and the finer table's first interval is as exact as
the next ones.

Source of the table: `LUTPopulateInt16` in LiteRT's kernels/internal/common.h.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.operators import Operator

FINER = 64
# Intervals of the kernel's table, half of them for x >= 0.
_INTERVALS = 512
# Points, values between them and results are each rounded to integers; the simulation rounds, too.
_ROUNDING_LSB = 8


def finer_grid(grid: Quantizer) -> Quantizer:
    """The grid of x for the second table."""
    return Quantizer(float(grid.scale) / FINER, 0, 16)


def table_error(source: Quantizer, target: Quantizer) -> int:
    """Largest error, in integers (LSB) of `target`, of the two tables for a 16-bit x on `source`."""
    integers = np.arange(source.qmax + 1)
    saturated = np.minimum(integers * FINER, source.qmax)
    coarse = _interpolated(integers, float(source.scale), target)
    fine = _interpolated(saturated, float(source.scale) / FINER, target)
    exact = _inverse_root(integers * float(source.scale), target)
    return int(np.ceil(np.abs(np.minimum(coarse, fine) - exact).max())) + _ROUNDING_LSB


def _interpolated(integers: np.ndarray, scale: float, target: Quantizer) -> np.ndarray:
    """The kernel's results, unrounded, for integers x >= 0 on a grid of this scale."""
    # The points divide the 65535 steps of all integers, so they are half a step before every 128th integer at 0.
    step = (2.0**16 - 1) / _INTERVALS
    points = (np.arange(_INTERVALS // 2 + 1) * step - 0.5) * scale
    values = _inverse_root(points, target)
    middle = _inverse_root(points[:-1] + step / 2 * scale, target, clipped=False)
    values[:-1] -= ((values[:-1] + values[1:]) / 2 - middle) / 2
    return np.interp(integers, np.arange(_INTERVALS // 2 + 1) * 128, np.minimum(values, target.qmax))


def _inverse_root(x: np.ndarray, target: Quantizer, *, clipped: bool = True) -> np.ndarray:
    """1 / sqrt(x) in unrounded integers of `target`; its largest integer for x <= 0, and as the upper end if `clipped`."""
    largest = float(target.qmax)
    positive = x > 0
    root = np.where(positive, 1 / (np.sqrt(np.where(positive, x, 1.0)) * float(target.scale)), largest)
    return np.minimum(root, largest) if clipped else root


def within_reach(
    file: File, rows: Sequence[Operator | None], ranges: Mapping[int, Range], grids: Mapping[int, Quantizer]
) -> dict[int, Range]:
    """`ranges` in which inverse roots of 16-bit tensors end at sqrt(2 / S), S the scale of the tensor whose root they are.

    Args:
        rows: Each operator's row in the table of operators; None if it stays in float.
        grids: Grids of the tensors with `ranges`.
    """
    found = dict(ranges)
    for operator, row in zip(file.operators, rows, strict=True):
        if row is None or file.operator_name(operator) != "RSQRT":
            continue
        source, target = int(operator.inputs[0]), int(operator.outputs[0])
        if source in grids and target in grids and target in ranges and grids[target].bits == grids[source].bits == 16:
            highest = np.sqrt(2 / float(grids[source].scale))
            part = highest / float(grids[target].high)
            if part < 1:
                found[target] = Range(0.0, part * ranges[target].high)
    return found
