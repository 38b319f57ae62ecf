"""A closed interval of reals, and room around it."""

from dataclasses import dataclass

import numpy as np

# A tensor that is given 16 bits among others of 8 has levels to spare: one bit of them keeps its extremes.
_ROOM = 2.0


@dataclass(frozen=True)
class Range:
    """Reals from `low` to `high`. Holds for every instance: both are finite floats, low <= high."""

    low: float
    high: float

    def __post_init__(self):
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"the range is [{self.low}, {self.high}]; both ends must be finite and in this order.")


def with_room(range_: Range) -> Range:
    """Twice the range, for tensors with so many levels that resolution is not what they lack."""
    return Range(_ROOM * range_.low, _ROOM * range_.high)
