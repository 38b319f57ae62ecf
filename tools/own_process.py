"""Runs a measurement in a process of its own.

Its memory is then its own: the operating system takes it back at the end, and the peak is not that of an earlier
measurement. A process starts with the memory of its parent in its `ru_maxrss`, so parents have to stay small.
"""

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any


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


class OwnProcess:
    """Calls functions, one after another, in a process that is started again where it dies or does not end.

    A call whose process died, or took more than `seconds`, returns a text that begins with "WRONG".
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __call__(self, function: Callable, *arguments) -> Any:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
        try:
            return self._pool.submit(function, *arguments).result(self._seconds)
        except BrokenProcessPool:
            self._kill()
            return "WRONG: the process ended"
        except TimeoutError:
            self._kill()
            return f"WRONG: no end within {self._seconds} s"

    def close(self) -> None:
        """Ends the process, which has nothing to do."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _kill(self) -> None:
        pool, self._pool = self._pool, None
        assert pool is not None, "a call has just used it"
        for process in list(pool._processes.values()):
            process.kill()
        pool.shutdown(cancel_futures=True)
