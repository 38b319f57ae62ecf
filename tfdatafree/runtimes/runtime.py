"""What a runtime is: something that opens a file and computes its tensors."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Session(Protocol):
    """One file in one runtime, ready to run."""

    def run(self, inputs: Sequence[np.ndarray]) -> Mapping[int, np.ndarray]:
        """Runs one example.

        Args:
            inputs: As the file takes them, a batch of one each, in its order.

        Returns:
            Index of a tensor in the file -> its content; at least the outputs, and all tensors that the runtime shows.
        """
        ...


class RuntimeFailure(Exception):
    """The runtime cannot open or run the file; says why in one line."""


@dataclass(frozen=True)
class Runtime:
    """A runtime.

    Attributes:
        name: Its name on the command line.
        open: Opens a file's bytes. Raises RuntimeFailure.
        missing: How to get it, in one line; "" if it is there.
    """

    name: str
    open: Callable[[bytes], Session]
    missing: Callable[[], str] = lambda: ""


def lacks_package(package: str, install: str) -> Callable[[], str]:
    """A `Runtime.missing` that tells how to install a Python package."""

    def missing() -> str:
        return "" if importlib.util.find_spec(package) else f"not installed: {install}"

    return missing


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
