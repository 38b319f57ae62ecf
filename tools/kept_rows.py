"""Rows of a long measurement in a file, one JSON object a line: what was measured once is not measured again."""

import json
import os
from collections.abc import Callable
from pathlib import Path


class KeptRows:
    """The rows of a file; None keeps them in memory only.

    A row is {**key, **figures}. A line that a killed run left half-written is dropped, and its row is measured again.
    """

    def __init__(self, path: str | os.PathLike | None):
        self._path = None if path is None else Path(path)
        self._rows: dict[str, dict] = {}
        text = self._path.read_text() if self._path is not None and self._path.exists() else ""
        for line in text.splitlines():
            try:
                kept = json.loads(line)
                self._rows[_text(kept["key"])] = kept["figures"]
            except (ValueError, KeyError, TypeError):
                continue
        if text and not text.endswith("\n"):
            self._append("")

    def row(self, key: dict, measure: Callable[[], dict]) -> dict:
        """The row of this key; `measure` is called where there is none. One with an "error" is not kept."""
        name = _text(key)
        if name not in self._rows:
            figures = measure()
            if "error" in figures:
                return {**key, **figures}
            self._rows[name] = figures
            self._append(json.dumps({"key": key, "figures": figures}))
        return {**key, **self._rows[name]}

    def _append(self, line: str) -> None:
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(line + "\n")


def _text(key: dict) -> str:
    return json.dumps(key, sort_keys=True)
