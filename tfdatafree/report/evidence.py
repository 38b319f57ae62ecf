"""Distributions of tensors and kernels, and a few inputs, for the report page.

The histogram of a tensor counts its float values on the inputs that ranges were chosen from. The histogram of a kernel counts
the integers in the file, with one bin per integer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfdatafree.export.build import Built
from tfdatafree.measuring.own_damage import own_damages
from tfdatafree.measuring.tensor_statistics import Statistics
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.quantization.placement import only_moved

BINS = 64
# Number of inputs that the page shows, and their largest side in pixels.
_SHOWN, _SIDE = 16, 96
# Images with fewer rows or columns are not shown, because nothing could be recognized in them.
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
        """Histogram of `values` from low to high. Values outside, because of rounding, count in the outer bins."""
        finest = bins * float(np.finfo(np.float32).eps) * max(abs(low), abs(high))
        if not high - low > finest:
            # The values are constant except for rounding, and float32 cannot divide such a range into bins.
            low, high = low - max(0.5, finest), high + max(0.5, finest)
        counts, _ = np.histogram(np.clip(values, low, high), bins, (low, high))
        return cls(float(low), float(high), counts.astype(np.int64))


@dataclass(frozen=True)
class Values:
    """A float tensor on the inputs.

    Attributes:
        low, high: Extremes over all its values.
        clipped: Fraction of values that the grid clips by more than its rounding, 0 to 1; estimated on a sample.
        histogram: Histogram of the sample.
    """

    low: float
    high: float
    clipped: float
    histogram: Histogram


@dataclass(frozen=True)
class KernelSummary:
    """A kernel in the file.

    Attributes:
        histogram: Histogram of its integers, with bins around qmin .. qmax.
        zero_point: The integer that stands for 0.0; None if channels have different ones.
        scales: Smallest and largest scale.
        lows, highs: float32 (output channels,), the smallest and the largest weight of each output channel.
        bytes: Bytes of the kernel in the file; as many as weights in a simulation.
    """

    histogram: Histogram
    zero_point: int | None
    scales: tuple[float, float]
    lows: np.ndarray
    highs: np.ndarray
    bytes: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(self.histogram.counts.sum())

    @property
    def sparsity(self) -> float | None:
        """Fraction of weights that are exactly 0."""
        if self.zero_point is None:
            return None
        return float(self.histogram.counts[self.zero_point - round(self.histogram.low + 0.5)] / max(self.size, 1))


@dataclass(frozen=True)
class Evidence:
    """What the report page shows besides the report.

    Attributes:
        values: Tensor -> its values in float.
        kernels: Layer -> its integers.
        inputs: Model input that takes images -> uint8 (n, height, width, 1 or 3), scaled so that the extremes are 0 and 255.
        damages: Tensor -> what its own rounding costs the results, as `measuring.own_damage` has it.
    """

    values: Mapping[str, Values] = field(default_factory=dict)
    kernels: Mapping[str, KernelSummary] = field(default_factory=dict)
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    damages: Mapping[str, float] = field(default_factory=dict)


def gather(
    built: Built, statistics: Mapping[str, Statistics], inputs: Sequence[np.ndarray], reference: Graph | None
) -> Evidence:
    """Collects the evidence of a compression.

    Args:
        statistics: Tensor -> its float statistics over `inputs`; empty for a float file.
        reference: The float network with the tensors of `built`; None for a float file.
    """
    values = {tensor: _values(statistics[tensor], grid) for tensor, grid in built.grids.items() if tensor in statistics}
    damages = {} if reference is None else damages_of(built, reference, inputs)
    return Evidence(values, summarize_kernels(built), make_thumbnails(built.graph.inputs, inputs), damages)


def damages_of(built: Built, reference: Graph, inputs: Sequence[np.ndarray]) -> dict[str, float]:
    """Tensor -> what its own rounding costs the results; `reference` is the float network with the same tensors."""
    moved = frozenset(only_moved(built.graph))
    return own_damages(reference, built.graph, built.grids, inputs, moved=moved)


def summarize_kernels(built: Built) -> dict[str, KernelSummary]:
    """Layer -> its integers in the file."""
    return {key: _summary(kernel, packed=key in built.packed) for key, kernel in built.kernels.items()}


def _values(statistics: Statistics, grid: Quantizer) -> Values:
    half, samples = float(grid.scale) / 2, statistics.samples
    clipped = np.mean((samples < grid.low - half) | (samples > grid.high + half))
    histogram = Histogram.of(samples, statistics.low, statistics.high)
    return Values(statistics.low, statistics.high, float(clipped), histogram)


def _summary(kernel: IntegerKernel, *, packed: bool) -> KernelSummary:
    integers, grid = kernel.matrix.astype(np.int64), kernel.grid
    lowest, highest = min(grid.qmin, int(integers.min())), max(grid.qmax, int(integers.max()))
    counts = np.bincount((integers - lowest).reshape(-1), minlength=highest - lowest + 1)
    zero_points = np.unique(grid.zero_point)
    lows, highs = _channel_ends(kernel)
    return KernelSummary(
        Histogram(lowest - 0.5, highest + 0.5, counts),
        int(zero_points[0]) if len(zero_points) == 1 else None,
        (float(np.min(grid.scale)), float(np.max(grid.scale))),
        lows,
        highs,
        bytes=-(-integers.size // 2) if packed else integers.size,
    )


def _channel_ends(kernel: IntegerKernel) -> np.ndarray:
    """float32 (2, output channels): the smallest and the largest weight of each channel."""
    ends = np.stack([kernel.matrix.min(axis=0), kernel.matrix.max(axis=0)])
    return kernel.grid.dequantize(ends)


def make_thumbnails(names: Sequence[str], inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The first few images of each input that takes images, averaged down to a small size."""
    thumbnails: dict[str, np.ndarray] = {}
    for name, array in zip(names, inputs, strict=True):
        images = np.asarray(array[:_SHOWN], np.float32)
        if images.ndim != 4 or images.shape[-1] not in (1, 3) or min(images.shape[1:3]) < _NARROW * _shrinkage(images):
            continue
        block = _shrinkage(images)
        height, width = (size // block for size in images.shape[1:3])
        blocks = images[:, : height * block, : width * block].reshape(len(images), height, block, width, block, -1)
        images = blocks.mean(axis=(2, 4))
        low, high = float(images.min()), float(images.max())
        thumbnails[name] = np.rint(255 * (images - low) / max(high - low, 1e-12)).astype(np.uint8)
    return thumbnails


def _shrinkage(images: np.ndarray) -> int:
    """How many pixels of `images` (n, height, width, channels), in each direction, one shown pixel averages."""
    return -(-max(images.shape[1:3]) // _SIDE)
