"""The progress bar as a terminal shows it."""

import re

from tfdatafree.progress import _WIDTH

FRAME = re.compile(rf"(?P<text>.{{{_WIDTH}}}) (?P<bar>\S*) +(?P<percent>\d+) % [\d:]+ passed, (\?|[\d:]+) left\s*")


def frames(text: str) -> list[re.Match]:
    """The bar as it was drawn, again and again."""
    found = [FRAME.fullmatch(part) for part in re.split(r"[\r\n]|\x1b\[A", text) if part.strip()]
    assert all(found), text
    return found


def percents(text: str) -> list[int]:
    return [int(frame["percent"]) for frame in frames(text)]
