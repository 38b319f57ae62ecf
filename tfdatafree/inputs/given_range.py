"""Checks the ranges that the user gives for the inputs. It needs no TensorFlow."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfdatafree.limits import short

if TYPE_CHECKING:  # a type alone, whose module imports Keras
    from tfdatafree.model.network import Ends, GivenRange


def check_input_range(input_range: Any) -> "GivenRange":
    """The user's (low, high), or these by input name, as floats.

    Raises:
        ValueError: An end is no number or not finite, or low >= high.
    """
    if isinstance(input_range, Mapping):
        return {str(name): _checked(ends, f"input_range of '{name}'") for name, ends in input_range.items()}
    return _checked(input_range, "input_range")


def _checked(given: Any, what: str) -> "Ends":
    try:
        low, high = (float(end) for end in given)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(f"{what} is {short(given)}; give two numbers (low, high), e.g. (-1, 1).") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{what} is ({low:g}, {high:g}); low and high must be finite, and low < high.")
    return low, high
