"""bench(): how long TFLite files take on this CPU or on a phone, side by side."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfdatafree.errors import LoadError
from tfdatafree.recipe.check import require_whole
from tfdatafree.report.contents import read_runnable
from tfdatafree.runtimes.latency import Latency, latencies, operator_times, summarize
from tfdatafree.runtimes.phone import phone_latency
from tfdatafree.runtimes.runtime import one_line


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What `bench` measured; `print` it.

    Attributes:
        where: The device and the number of threads.
        latencies: One per file, in the order given.
    """

    where: str
    latencies: tuple[Latency, ...]

    def __str__(self) -> str:
        width = max(len(latency.file) for latency in self.latencies)
        lines = [f"{self.where}; ratio to the first file, and the quartiles of it"]
        for at, latency in enumerate(self.latencies):
            ratio = "" if at == 0 else f"{latency.ratio:8.3f}   {latency.low:.3f} to {latency.high:.3f}"
            lines.append(f"{latency.file:<{width}}  {1e3 * latency.seconds:9.3f} ms  {ratio}".rstrip())
        for latency in self.latencies:
            if latency.operators:
                total = sum(kind.seconds for kind in latency.operators)
                lines += ["", f"{latency.file}: operators, each run alone"]
                lines += [
                    f"  {kind.name:<24}{kind.count:4d}  {1e3 * kind.seconds:9.3f} ms  {kind.seconds / total:6.1%}"
                    for kind in latency.operators
                ]
        return "\n".join(lines)


def bench(
    files: "Sequence[str | os.PathLike]",
    *,
    rounds: int = 50,
    threads: int = 1,
    profile: bool = False,
    phone: bool = False,
) -> Benchmark:
    """Times TFLite files against each other, with LiteRT and XNNPACK. On this machine the files take turns in every round.

    Args:
        files: Paths of .tflite files.
        rounds: Rounds on this machine, or inferences on the phone.
        threads: Threads of the kernels.
        profile: Also time each operator alone, on this machine.
        phone: Measure on the phone that adb reaches, with Google's `benchmark_model`.

    Raises:
        LoadError: A file is missing, damaged, or cannot be run.
        MissingPackageError: There is no adb.
        PhoneError: The phone does not do it.
        ValueError: An option is wrong.
    """
    require_whole("rounds", rounds, 1)
    require_whole("threads", threads, 1)
    if not files:
        raise ValueError("files is empty; give the path of at least one .tflite file.")
    names = [str(Path(file)) for file in files]
    contents = [read_runnable(file) for file in files]
    if phone:
        seconds = np.array([[phone_latency(content, runs=rounds, threads=threads) for content in contents]])
    else:
        seconds = _measured(names, contents, rounds, threads)
    found = summarize(names, seconds)
    if profile:
        found = [
            dataclasses.replace(latency, operators=tuple(operator_times(content, threads=threads)))
            for latency, content in zip(found, contents, strict=True)
        ]
    where = f"{'the phone' if phone else 'this CPU'}, {threads} thread{'s' if threads > 1 else ''}"
    return Benchmark(where=where, latencies=tuple(found))


def _measured(names: list[str], contents: list[bytes], rounds: int, threads: int) -> np.ndarray:
    for name, content in zip(names, contents, strict=True):
        try:
            latencies([content], 1, threads=threads)
        except ValueError as error:
            raise LoadError(f"'{name}' cannot be run: {one_line(error)}") from error
    return latencies(contents, rounds, threads=threads)
