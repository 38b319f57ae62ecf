"""Lays out text for the width of the terminal."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator

_HELP_WIDTH = 100
# Narrower than that, columns of words would be of one word each.
_LEAST = 40


def columns(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Lines of two columns, of at most 100 characters. The second is wrapped; in a narrow terminal it stands below the first."""
    rows, width = list(rows), min(_HELP_WIDTH, _terminal_width() or _HELP_WIDTH)
    left = max(len(name) for name, _ in rows) + 4
    if width - left < _LEAST:
        for name, text in rows:
            yield f"  {name}"
            yield from textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
        return
    for name, text in rows:
        first, *others = textwrap.wrap(text, width - left)
        yield f"  {name:<{left - 2}}{first}"
        yield from (" " * left + line for line in others)


def fitted(text: str) -> str:
    """`text` with lines that are longer than the terminal wrapped below themselves; unchanged where there is no terminal."""
    width = _terminal_width()
    if width is None:
        return text
    return "\n".join(part for line in text.splitlines() for part in _wrapped(line, max(width, _LEAST)))


def _wrapped(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.wrap(
        line.rstrip(),
        width,
        subsequent_indent=indent,
        drop_whitespace=True,
        replace_whitespace=False,
        break_on_hyphens=False,
    )


def _terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None where it is none."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns
