"""Room above the largest decision seen: how far the range of a model's outputs can be widened almost for free.

Generated inputs excite a classifier less than the real ones it was trained on, and an output that leaves its range
saturates: classes tie and the decision is lost. A range that is too wide costs only resolution, and an output tensor
already carries the noise of every layer before it. Decisions are made at the top, so that is where the room is: with
propagated noise power n, step S and range [l, h] of N = (h - l) / S steps the new range is

    [5/4 l, m h],     5/4 |l| + m h = N sqrt(12 n (10^(d / 10) - 1)),     1.5 <= m <= 4,     d = 0.1 dB

so that the rounding noise of the wider grid raises the output's noise by at most d decibels, or where that leaves less than
m = 1.5, by half as much again: saturation costs more than 0.6 bits of resolution. The bottom, where only the least likely
classes are told apart, gets a quarter.
"""

from collections.abc import Mapping

import numpy as np

from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range

COST_DB = 0.1
LEAST, MOST = 1.5, 4.0
BOTTOM = 1.25


def with_headroom(range_: Range, noise: float, scale: float) -> Range:
    """The range [5/4 l, m h]; `noise` is the mean square error of its tensor on a grid of step `scale`, rounding included."""
    propagated = max(noise - scale**2 / 12, 0.0)
    width = (range_.high - range_.low) / scale * np.sqrt(12 * propagated * (10 ** (COST_DB / 10) - 1))
    top = (width + BOTTOM * range_.low) / max(range_.high, 1e-30)
    return Range(BOTTOM * range_.low, float(np.clip(top, LEAST, MOST)) * range_.high)


def widen_decisions(
    graph: Graph, ranges: Mapping[str, Range], noise: Mapping[str, float], grids: Mapping[str, Quantizer]
) -> dict[str, Range]:
    """The decision tensors' ranges with their headroom; {} if there is none to give.

    Args:
        noise: Tensor -> mean square error against the float model on generated inputs.
        grids: Tensor -> grid that `noise` was measured with.
    """
    widened = {}
    for tensor in decision_tensors(graph):
        if tensor not in noise or tensor not in ranges:
            continue
        widened[tensor] = with_headroom(ranges[tensor], noise[tensor], float(grids[tensor].scale))
    return widened
