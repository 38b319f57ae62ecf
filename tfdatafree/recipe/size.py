"""Sizes of files: a part of the int8 file's bytes, or a number of bytes, as a number or as text."""

import math
import re
from typing import Any

from tfdatafree.limits import short
from tfdatafree.recipe.check import is_number

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_TEXT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z]*)")


def is_part(size: float) -> bool:
    """Whether `size` is a part, above 0 and at most 1, and not a number of bytes."""
    return 0 < size <= 1


def require_size(size: Any) -> None:
    """Raises ValueError unless `size` is a part above 0 and at most 1, or a whole number of bytes above 1."""
    if not is_number(size) or not (is_part(size) or (size > 1 and math.isfinite(size) and size == int(size))):
        raise ValueError(
            f"size is {short(size)}; give a part of the int8 file's bytes, above 0 and at most 1, e.g. 0.6, or a whole number "
            "of bytes, e.g. 250000."
        )


def parse_size(name: str, text: str) -> float:
    """The part or the bytes that `text` stands for: "0.6", "250000", "250kB", "1.5MB", "256KiB".

    Args:
        name: What the error calls it.

    Raises:
        ValueError: It is neither.
    """
    try:
        part = float(text)
    except ValueError:
        return parse_bytes(name, text, "a part of the int8 file's bytes, e.g. 0.6, or ")
    return part if is_part(part) else parse_bytes(name, text, "a part of the int8 file's bytes, e.g. 0.6, or ")


def parse_bytes(name: str, text: str, also: str = "") -> int:
    """The bytes that `text` stands for: "250000", "250kB", "1.5MB" (thousands), "256KiB" (1024).

    Args:
        name: What the error calls it.
        also: What else could be given, for the error.

    Raises:
        ValueError: It is no number of bytes above 1.
    """
    found = _TEXT.fullmatch(text.strip())
    unit = None if found is None else _UNITS.get(found[2].lower())
    size = 0.0 if found is None or unit is None else float(found[1]) * unit
    if size <= 1 or size != int(size):
        raise ValueError(f"{name} is {short(text)}; give {also}a number of bytes, e.g. --{name}=250kB.")
    return int(size)
