"""Headroom of decision tensors: widens their ranges as far as it costs almost no accuracy.

Generated inputs cause smaller outputs than the real ones that a classifier was trained on. An output beyond its range
saturates: several classes get the same value, and the decision is lost. A range that is too wide only costs resolution, and
an output tensor already has the noise of every layer before it. The largest values decide, so the upper end gets most of the
headroom. With propagated noise power n, scale S and a range [l, h] of N = (h - l) / S levels, the new range is

    [5/4 l, m h],     5/4 |l| + m h = N sqrt(12 n (10^(d / 10) - 1)),     1.5 <= m <= 4,     d = 0.1 dB

so that the rounding noise of the wider grid raises the output's noise by at most d decibels. An exception is m = 1.5, which
is used even if it raises the noise more: saturation costs more than 0.6 bits of resolution. The lower end, which only
distinguishes the least likely classes, is extended by a quarter. Ends beyond which the reader of the tensor saturates are not
passed. Real inputs showed how large outputs are: there m may be 1.
"""

from collections.abc import Mapping

import numpy as np

from tfdatafree.model.decisions import decision_tensors
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.decision import Decision

COST_DB = 0.1
LEAST, MOST = 1.5, 4.0
BOTTOM = 1.25


def with_headroom(
    range_: Range,
    noise: float,
    scale: float,
    *,
    limits: tuple[float, float] = (-np.inf, np.inf),
    least: float = LEAST,
) -> Range:
    """The range [5/4 l, m h] within `limits`.

    Args:
        noise: Mean square error of the tensor on a grid of this scale, rounding included.
        least: The smallest m.
    """
    low = max(BOTTOM * range_.low, limits[0])
    propagated = max(noise - scale**2 / 12, 0.0)
    width = (range_.high - range_.low) / scale * np.sqrt(12 * propagated * (10 ** (COST_DB / 10) - 1))
    top = (width + low) / max(range_.high, 1e-30)
    return Range(low, min(float(np.clip(top, least, MOST)) * range_.high, limits[1]))


def widen_decisions(decision: Decision, noise: Mapping[str, float], grids: Mapping[str, Quantizer]) -> dict[str, Range]:
    """The ranges of the decision tensors with headroom; {} without decision tensors.

    Args:
        noise: Tensor -> mean square error against the float model on generated inputs.
        grids: Tensor -> grid with which `noise` was measured.
    """
    return {
        tensor: with_headroom(
            decision.ranges[tensor],
            noise[tensor],
            float(grids[tensor].scale),
            limits=decision.limits.get(tensor, (-np.inf, np.inf)),
            least=1.0 if decision.real else LEAST,
        )
        for tensor in decision_tensors(decision.graph)
        if tensor in noise and tensor in decision.ranges
    }
