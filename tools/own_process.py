"""Runs a measurement in a process of its own.

Its memory is then its own: the operating system takes it back at the end, and the peak is not that of an earlier
measurement. A process starts with the memory of its parent in its `ru_maxrss`, so parents have to stay small.
"""

import concurrent.futures
import multiprocessing
from collections.abc import Callable


def run(function: Callable, *arguments):
    """Returns `function(*arguments)`, called in a fresh process. What it raises is raised here."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def run_row(function: Callable[..., dict], *arguments) -> dict:
    """Returns the row that `run` gives; a failure becomes {"error": its reason in one line}."""
    try:
        return run(function, *arguments)
    except Exception as error:  # noqa: BLE001  (whatever fails, the table goes on)
        lines = str(error).strip().splitlines() or ["no message"]
        return {"error": f"{type(error).__name__}: {lines[0]}"}
