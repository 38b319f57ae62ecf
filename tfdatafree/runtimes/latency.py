"""How long files take on this machine's CPU: turn by turn, so that other work slows all of them alike."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.runtime import Runner

_WARM_UP = 3
# Inferences per turn. The fastest counts, because nothing interrupted it.
_TRIES = 5


@dataclass(frozen=True)
class OperatorTime:
    """Seconds that all operators of one kind take, each run alone.

    Attributes:
        name: Kind of operator, as in TFLite.
        count: Number of them in the file.
        seconds: Their seconds together.
    """

    name: str
    count: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one file takes.

    Attributes:
        file: Its path, or what it is.
        seconds: Median seconds of one inference; on a phone the mean.
        ratio: Median of the ratios to the first file in the same round.
        low, high: Quartiles of these ratios.
        operators: Seconds by kind of operator, the longest first; empty unless asked for.
    """

    file: str
    seconds: float
    ratio: float
    low: float
    high: float
    operators: tuple[OperatorTime, ...] = ()


def summarize(names: Sequence[str], seconds: np.ndarray) -> list[Latency]:
    """One `Latency` per file of `seconds` (rounds, files)."""
    low, middle, high = np.percentile(seconds / seconds[:, :1], (25, 50, 75), axis=0)
    rows = zip(names, np.median(seconds, axis=0), middle, low, high, strict=True)
    return [
        Latency(file=name, seconds=float(median), ratio=float(ratio), low=float(least), high=float(most))
        for name, median, ratio, least, most in rows
    ]


def latencies(contents: Sequence[bytes], rounds: int, *, threads: int = 1) -> np.ndarray:
    """Seconds of one inference by LiteRT with XNNPACK, (rounds, files): the fastest of a few. Rounds begin with different files.

    Raises:
        ValueError: LiteRT cannot run a file.
    """
    sessions = [_Session(content, threads) for content in contents]
    seconds = np.zeros((rounds + _WARM_UP, len(sessions)))
    for turn, row in enumerate(seconds):
        for at in np.roll(np.arange(len(sessions)), turn):
            row[at] = min(sessions[at].seconds() for _ in range(_TRIES))
    return seconds[_WARM_UP:]


def operator_times(content: bytes, *, threads: int = 1) -> list[OperatorTime]:
    """What each kind of operator takes, the longest first. Each operator is timed alone, so the sum is more than the whole."""
    file = File.parse(content)
    times: dict[str, list[float]] = {}
    for operator in file.operators:
        session = _Session(file.only(operator).serialize(), threads)
        seconds = min(session.seconds() for _ in range(_WARM_UP + _TRIES))
        times.setdefault(file.operator_name(operator), []).append(seconds)
    found = [OperatorTime(name, len(each), sum(each)) for name, each in times.items()]
    return sorted(found, key=lambda kind: -kind.seconds)


class _Session:
    """One file with inputs of zeros."""

    def __init__(self, content: bytes, threads: int):
        self._runner = Runner(content, num_threads=threads)
        self._inputs = [np.zeros(detail["shape"], detail["dtype"]) for detail in self._runner.inputs]

    def seconds(self) -> float:
        start = time.perf_counter()
        self._runner.run(self._inputs)
        return time.perf_counter() - start
