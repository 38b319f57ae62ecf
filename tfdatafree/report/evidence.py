"""What was seen while compressing, small enough to be kept: distributions of tensors and kernels, a few inputs.

A tensor's histogram counts float values on the inputs that ranges were chosen from; a kernel's counts its integers as the
file has them, one bin per integer, so that it *is* the grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfdatafree.export.build import Built
from tfdatafree.measuring.statistics import Statistics
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.quantization.integer_kernel import IntegerKernel

BINS = 64
# Inputs that are kept to be looked at, and the sides they are averaged down to.
_SHOWN, _SIDE = 16, 96
# Nobody recognizes anything in an image of fewer rows or columns; long thin ones would be averaged down to nothing.
_NARROW = 8


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of equal width.

    Attributes:
        low, high: Outer edges of the first and the last bin.
        counts: int64 (bins,).
    """

    low: float
    high: float
    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, low: float, high: float, bins: int = BINS) -> "Histogram":
        """Histogram of all `values` from low to high; one that lies outside by rounding counts at the end."""
        finest = bins * float(np.finfo(np.float32).eps) * max(abs(low), abs(high))
        if not high - low > finest:
            # A constant, perhaps but for rounding: float32 has no room for so many bins in between.
            low, high = low - max(0.5, finest), high + max(0.5, finest)
        counts, _ = np.histogram(np.clip(values, low, high), bins, (low, high))
        return cls(float(low), float(high), counts.astype(np.int64))


@dataclass(frozen=True)
class Values:
    """A float tensor on the inputs.

    Attributes:
        low, high: Extremes over all its values.
        clipped: Share of values that the grid clips by more than its rounding, 0 to 1; from a sample of them.
        histogram: Of the sample.
    """

    low: float
    high: float
    clipped: float
    histogram: Histogram


@dataclass(frozen=True)
class KernelSummary:
    """A kernel as written.

    Attributes:
        histogram: Of its integers, bins around qmin .. qmax.
        zero: The integer that stands for 0.0; None where channels differ in it.
        steps: Smallest and largest step.
    """

    histogram: Histogram
    zero: int | None
    steps: tuple[float, float]

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(self.histogram.counts.sum())

    @property
    def sparsity(self) -> float | None:
        """Share of weights that are exactly 0."""
        if self.zero is None:
            return None
        return float(self.histogram.counts[self.zero - round(self.histogram.low + 0.5)] / max(self.size, 1))


@dataclass(frozen=True)
class Evidence:
    """Everything that is kept.

    Attributes:
        values: Tensor -> its values in float.
        kernels: Layer key -> its integers.
        inputs: Model input, if it takes images -> uint8 (n, height, width, 1 or 3), its extremes stretched over 0 .. 255.
    """

    values: Mapping[str, Values] = field(default_factory=dict)
    kernels: Mapping[str, KernelSummary] = field(default_factory=dict)
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)


def gather(built: Built, seen: Mapping[str, Statistics], inputs: Sequence[np.ndarray]) -> Evidence:
    """What is kept of a compression; `seen` are the statistics over `inputs` in float, empty for a float file."""
    values = {tensor: _values(seen[tensor], grid) for tensor, grid in built.grids.items() if tensor in seen}
    return Evidence(values, summaries(built), shown_inputs(built.graph.inputs, inputs))


def summaries(built: Built) -> dict[str, KernelSummary]:
    """Layer -> its integers as written."""
    return {key: _summary(kernel) for key, kernel in built.kernels.items()}


def _values(seen: Statistics, grid: Quantizer) -> Values:
    half = float(grid.scale) / 2
    clipped = np.mean((seen.samples < grid.low - half) | (seen.samples > grid.high + half))
    return Values(seen.low, seen.high, float(clipped), Histogram.of(seen.samples, seen.low, seen.high))


def _summary(kernel: IntegerKernel) -> KernelSummary:
    integers, grid = kernel.matrix.astype(np.int64), kernel.grid
    lowest, highest = min(grid.qmin, int(integers.min())), max(grid.qmax, int(integers.max()))
    counts = np.bincount((integers - lowest).reshape(-1), minlength=highest - lowest + 1)
    zeros = np.unique(grid.zero_point)
    return KernelSummary(
        Histogram(lowest - 0.5, highest + 0.5, counts),
        int(zeros[0]) if len(zeros) == 1 else None,
        (float(np.min(grid.scale)), float(np.max(grid.scale))),
    )


def shown_inputs(names: Sequence[str], inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The first few of those inputs that are images, averaged down to small ones."""
    found: dict[str, np.ndarray] = {}
    for name, array in zip(names, inputs, strict=True):
        some = np.asarray(array[:_SHOWN], np.float32)
        if some.ndim != 4 or some.shape[-1] not in (1, 3) or min(some.shape[1:3]) < _NARROW * _shrink(some):
            continue
        step = _shrink(some)
        height, width = (size // step for size in some.shape[1:3])
        blocks = some[:, : height * step, : width * step].reshape(len(some), height, step, width, step, -1)
        some = blocks.mean(axis=(2, 4))
        low, high = float(some.min()), float(some.max())
        found[name] = np.rint(255 * (some - low) / max(high - low, 1e-12)).astype(np.uint8)
    return found


def _shrink(images: np.ndarray) -> int:
    """Pixels of `images` (n, height, width, channels) along each side of one pixel that is shown."""
    return -(-max(images.shape[1:3]) // _SIDE)
