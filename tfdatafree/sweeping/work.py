"""What a worker does: compresses one model with one recipe, and gives back files and figures, or the reason why not."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfdatafree.errors import TfdatafreeError, printable
from tfdatafree.files import temporary_folder
from tfdatafree.recipe.file import recipe_text
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.sweeping.figures import figures_of
from tfdatafree.version import __version__

FILE, RECIPE, RECORD, PAGE = "model.tflite", "recipe.json", "report.json", "report.html"
_MOST_LETTERS = 400  # of an error


@dataclass(frozen=True, kw_only=True)
class Job:
    """One point, as it travels to a worker.

    Attributes:
        key, title: Of the point.
        file: Name of the model's file.
        recipe: What to do.
        arguments: Arguments of `compress`.
        pages: Whether to write the report as a page, too.
        version: Version of the package that asks.
    """

    key: str
    title: str
    file: str
    recipe: Recipe
    arguments: dict[str, Any]
    pages: bool
    version: str = __version__


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a point.

    Attributes:
        figures: Column -> figure; empty with an error.
        files: Name -> content; empty with an error.
        error: Why there is no file; "" if there is one.
        final: Whether another try would give the same.
        seconds, cpu_seconds: What it took, by the clock and of processor time.
        where: Process that did it.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    error: str = ""
    final: bool = True
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    where: str = ""


def do(job: Job, content: bytes) -> Result:
    """Compresses the model whose file has this content. Never raises an Exception: a failure is a result."""
    started, cpu_started = time.perf_counter(), time.process_time()
    figures, files, error, final = {}, {}, "", True
    with temporary_folder() as name:
        try:
            figures, files = _compressed(job, content, Path(name))
        except Exception as caught:  # whatever fails, the sweep goes on
            error = _one_line(caught, name)
            final = isinstance(caught, (TfdatafreeError, ValueError)) and not isinstance(caught, OSError)
    return Result(
        figures=figures,
        files=files,
        error=error,
        final=final,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
        where=f"process {os.getpid()}",
    )


def _compressed(job: Job, content: bytes, folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    if job.version != __version__:
        raise RuntimeError(
            f"the worker has tfdatafree {__version__}, the sweep {job.version}; install one version on both."
        )
    from tfdatafree.compress import compress

    path = folder / job.file
    path.write_bytes(content)
    compressed = compress(path, job.recipe, **job.arguments, verbose=0)
    files = {FILE: compressed.tflite, RECIPE: recipe_text(compressed.replay, RECIPE).encode()}
    for name in (RECORD, PAGE) if job.pages else (RECORD,):
        files[name] = compressed.save(folder / name).read_bytes()
    return figures_of(compressed.report), files


def _one_line(error: Exception, folder: str) -> str:
    text = printable(" ".join(str(error).replace(f"{folder}{os.sep}", "").split()))
    return f"{type(error).__name__}: {text[:_MOST_LETTERS]}"
