"""The results of a sweep on disk: a folder per point. A process may be killed at any moment; what it had finished stays.

    points/<model>-<recipe>-...-<key>/model.tflite, recipe.json, report.json, report.html, and last result.json

Each file is written completely or not at all, and result.json, which holds the hashes of the others, comes last. So that a point
is found finished only if all of its files are there, and whole.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from tfdatafree.files import write_atomically
from tfdatafree.sweeping.points import Point
from tfdatafree.sweeping.work import PAGE, Result

_RESULT = "result.json"
POINTS = "points"


class Store:
    """The results below one folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def folder_of(self, point: Point) -> Path:
        return self._folder / POINTS / point.folder

    def find(self, point: Point, *, page: bool) -> dict[str, Any] | None:
        """What `put` wrote for this point; None if it has to be computed: nothing is there, it is not whole, or another try may
        succeed.

        Args:
            page: Whether a report page is needed.
        """
        folder = self.folder_of(point)
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
            if found["key"] != point.key or not found["final"]:
                return None
            whole = all(_digest((folder / name).read_bytes()) == digest for name, digest in found["files"].items())
            return found if whole and (not page or found["error"] or PAGE in found["files"]) else None
        return None

    def put(self, point: Point, result: Result) -> dict[str, Any]:
        """Writes a result, and returns what `find` will return."""
        folder = self.folder_of(point)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in result.files.items():
            write_atomically(folder / name, content)
        found = {
            "key": point.key,
            "title": point.title,
            "figures": result.figures,
            "error": result.error,
            "final": result.final,
            "seconds": result.seconds,
            "cpu_seconds": result.cpu_seconds,
            "where": result.where,
            "files": {name: _digest(content) for name, content in result.files.items()},
        }
        write_atomically(folder / _RESULT, (json.dumps(found, indent=2) + "\n").encode())
        return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
