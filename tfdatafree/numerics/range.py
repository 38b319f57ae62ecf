"""A closed interval of real values, and headroom around it."""

from dataclasses import dataclass

import numpy as np

# A 16-bit tensor has 256 times the levels of an 8-bit one. Two of its bits give its extremes room.
_ROOM = 4.0


@dataclass(frozen=True)
class Range:
    """Real values from `low` to `high`. Holds for every instance: both are finite floats, low <= high."""

    low: float
    high: float

    def __post_init__(self):
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"the range is [{self.low}, {self.high}]; both ends must be finite and in this order.")


def with_room(range_: Range) -> Range:
    """Four times the range, for tensors with so many levels that they need no more resolution."""
    return Range(_ROOM * range_.low, _ROOM * range_.high)


def without_room(range_: Range) -> Range:
    """The range that `with_room` made this one of."""
    return Range(range_.low / _ROOM, range_.high / _ROOM)
