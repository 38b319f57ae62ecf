"""Which scales of a student's activations are trained, and the ranges that the trained ones stand for.

A grid with scale s and zero point z covers the range s (qmin - z) to s (qmax - z). Training moves s and keeps z, so that the
range of a new scale leads to the same zero point again when the file is written.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfdatafree.compressed import Compressed
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range, without_room

# Scales of wider grids are so small that none is better.
_MOST_BITS = 8


@dataclass(frozen=True)
class ActivationGrids:
    """The grids of a student's tensors whose scales are trained.

    Attributes:
        group_of: Tensor -> name of its group, which has one grid.
        grid_of: Group -> its grid before training.
        bits: Bits of the tensors without a rule of their own.
    """

    group_of: Mapping[str, str]
    grid_of: Mapping[str, Quantizer]
    bits: int = 8

    def ranges(self, scales: Mapping[str, np.ndarray]) -> dict[str, Range]:
        """Tensor -> its range, as a `Decision` holds it, for these scales of the groups."""
        ranges = {}
        for tensor, group in self.group_of.items():
            grid = dataclasses.replace(self.grid_of[group], scale=scales[group])
            range_ = Range(float(grid.low), float(grid.high))
            ranges[tensor] = without_room(range_) if grid.bits > self.bits else range_
        return ranges


def trained_grids(student: object) -> ActivationGrids:
    """The grids of a `Compressed` that may move: not those of inputs, which users see, nor those that an operator fixes."""
    if not isinstance(student, Compressed) or student.decision is None:
        return ActivationGrids({}, {})
    placement, grids = student.decision.placement, student.built.grids
    bits = student.decision.options.activation_bits
    fixed = {placement.groups[tensor] for tensor in placement.grids({}, bits)}
    fixed |= {placement.groups[tensor] for tensor in placement.graph.inputs if tensor in placement.groups}
    members: dict[str, list[str]] = {}
    for tensor, group in placement.groups.items():
        if tensor in grids and group not in fixed:
            members.setdefault(group, []).append(tensor)
    group_of, grid_of = {}, {}
    for group, tensors in members.items():
        found = [grids[tensor] for tensor in tensors]
        if found[0].bits <= _MOST_BITS and all(grid == found[0] for grid in found):
            grid_of[group] = found[0]
            group_of.update(dict.fromkeys(tensors, group))
    return ActivationGrids(group_of, grid_of, bits)
