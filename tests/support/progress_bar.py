"""The progress bar as a terminal shows it, and the lines that a file gets in its place."""

import re

from tfdatafree.progress import _WIDTH

FRAME = re.compile(rf"(?P<text>.{{{_WIDTH}}}) (?P<bar>\S*) +(?P<percent>\d+) % [\d:]+ passed, (\?|[\d:]+) left\s*")

LINE = re.compile(r"importing TensorFlow \.\.\.| *[\d.]+ s  \w.*")


def frames(text: str) -> list[re.Match]:
    """The bar as it was drawn, again and again."""
    found = [FRAME.fullmatch(part) for part in re.split(r"[\r\n]|\x1b\[A", text) if part.strip()]
    assert all(found), text
    return found


def percents(text: str) -> list[int]:
    return [int(frame["percent"]) for frame in frames(text)]


def without_progress(text: str) -> str:
    """What stands in a file besides lines about progress."""
    return "".join(line for line in text.splitlines(keepends=True) if not LINE.fullmatch(line.rstrip("\n")))
