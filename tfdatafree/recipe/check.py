"""Checks that all options share, and what they say of a name that does not exist."""

import difflib
from collections.abc import Iterable, Sequence

from tfdatafree.limits import short


def require_choice(owner: object, name: str, choices: tuple) -> None:
    """Raises ValueError unless the attribute `name` of `owner` is one of `choices`."""
    value = getattr(owner, name)
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} is {short(value)}; choose one of {listed}.")


def require_name(what: str, given: object, names: Iterable[str], *, also: str = "") -> None:
    """Raises ValueError unless `given` is one of `names`; suggests the most similar one.

    Args:
        what: What the error calls `given`.
        also: What else the caller takes, for the end of the error's list: ", or pass a Recipe".
    """
    names = list(names)
    if given in names:
        return
    hint = " ".join(filter(None, (suggestion(nearest(given, names)), "choose one of")))
    raise ValueError(f"{what} is {short(given)}; {hint} {', '.join(names)}{also}.")


def nearest(given: object, names: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Up to `most` of `names` that are similar to `given`, the most similar first. Upper and lower case count as equal.

    Args:
        cutoff: Least similarity, 0 to 1; see `difflib.get_close_matches`.
    """
    by_lower = {name.lower(): name for name in names}
    found = difflib.get_close_matches(str(given).lower(), by_lower, n=most, cutoff=cutoff)
    return [by_lower[name] for name in found]


def suggestion(names: Sequence[str]) -> str:
    """The question "did you mean 'a' or 'b'?"; "" without names."""
    return f"did you mean {' or '.join(map(repr, names))}?" if names else ""


def require_whole(name: str, value: object, least: int) -> None:
    """Raises ValueError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {short(value)}; give a whole number of at least {least}.")


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
