"""What is remembered of each tensor while inputs pass through a model: extremes of each input, channel moments, a few samples.

Nothing else is kept, so memory does not grow with the number of layers' activations.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

# Values kept per tensor for range searches (Horton et al. 2021, section IV-A, use a batch of 2000).
SAMPLES = 2000
# Rows of which channel moments are taken; more would change them by less than a hundredth of a standard deviation.
_MOMENT_ROWS = 16384


@dataclass(frozen=True)
class Moments:
    """Mean and variance per channel, shape (channels,), float64."""

    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> "Moments":
        """Moments of evenly chosen rows of (rows, channels)."""
        some = rows[:: -(-len(rows) // _MOMENT_ROWS)].astype(np.float64)
        mean = some.mean(axis=0)
        some -= mean
        np.multiply(some, some, out=some)
        return cls(mean, some.mean(axis=0))

    def merge(self, count: int, other: "Moments", other_count: int) -> "Moments":
        """Moments of `count` and `other_count` values per channel together."""
        total = count + other_count
        mean = (self.mean * count + other.mean * other_count) / total
        square = (
            (self.variance + np.square(self.mean)) * count + (other.variance + np.square(other.mean)) * other_count
        ) / total
        return Moments(mean, np.maximum(square - np.square(mean), 0))


@dataclass(frozen=True)
class Statistics:
    """Summary of one tensor, channels last.

    Attributes:
        lows, highs: Extremes over the values of each input, (inputs,).
        samples: Values drawn evenly from all that were seen, float32, shape (<= about SAMPLES,).
        count: Values seen per channel.
        moments: Of the channels; None where nobody asked for them.
        least_peak: Each position has a largest value over its channels. This is the smallest of these; inf where nobody
            asked for it.
    """

    lows: np.ndarray
    highs: np.ndarray
    samples: np.ndarray
    count: int
    moments: Moments | None = None
    least_peak: float = np.inf

    @classmethod
    def of(
        cls,
        values: np.ndarray,
        samples: int,
        random: np.random.Generator,
        *,
        moments: bool = True,
        peaks: bool = False,
    ) -> "Statistics":
        """Summary of `values` (inputs, ..., channels) with about `samples` of them."""
        rows = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(-1, 1)
        flat = rows.reshape(-1)
        drawn = flat if flat.size <= samples else flat[random.integers(flat.size, size=samples)]
        by_input = values.reshape(len(values), -1)
        return cls(
            by_input.min(axis=1),
            by_input.max(axis=1),
            drawn.astype(np.float32),
            len(rows),
            Moments.of(rows) if moments else None,
            float(rows.max(axis=1).min()) if peaks else np.inf,
        )

    @property
    def low(self) -> float:
        """Smallest of all values."""
        return float(self.lows.min())

    @property
    def high(self) -> float:
        """Largest of all values."""
        return float(self.highs.max())

    @property
    def mean(self) -> np.ndarray:
        """Per channel, shape (channels,), float64."""
        assert self.moments is not None, "moments were not asked for"
        return self.moments.mean

    @property
    def variance(self) -> np.ndarray:
        """Per channel, shape (channels,), float64."""
        assert self.moments is not None, "moments were not asked for"
        return self.moments.variance

    def merge(self, other: "Statistics") -> "Statistics":
        """Summary of both tensors' values together."""
        moments = None
        if self.moments is not None and other.moments is not None:
            moments = self.moments.merge(self.count, other.moments, other.count)
        return Statistics(
            np.concatenate([self.lows, other.lows]),
            np.concatenate([self.highs, other.highs]),
            np.concatenate([self.samples, other.samples]),
            self.count + other.count,
            moments,
            min(self.least_peak, other.least_peak),
        )


def collect(
    values: Iterable[tuple[str, np.ndarray]],
    *,
    batches: int = 1,
    seed: int = 0,
    moments: Collection[str] | None = None,
    peaks: Collection[str] = (),
) -> dict[str, Statistics]:
    """Statistics of each tensor in a stream of (tensor name, array) pairs.

    Args:
        batches: How many times a name may come.
        moments: Tensors whose channels' means and variances are wanted: they take longer than all else. None: all.
        peaks: Tensors whose `least_peak` is wanted.
    """
    random = np.random.default_rng(seed)
    share = -(-SAMPLES // batches)
    found: dict[str, Statistics] = {}
    for name, array in values:
        new = Statistics.of(array, share, random, moments=moments is None or name in moments, peaks=name in peaks)
        found[name] = found[name].merge(new) if name in found else new
    return found


def channel_reaches(values: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Tensor -> largest absolute value of each channel, (channels,), in a stream of (tensor name, array) pairs."""
    found: dict[str, np.ndarray] = {}
    for name, array in values:
        if array.ndim > 1:
            axes = tuple(range(array.ndim - 1))
            reach = np.maximum(np.abs(array.max(axis=axes)), np.abs(array.min(axis=axes)))
            found[name] = np.maximum(found[name], reach) if name in found else reach
    return found
