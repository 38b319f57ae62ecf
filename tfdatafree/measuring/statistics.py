"""What is remembered of each tensor while inputs pass through a model: extremes, channel moments, a few samples.

Nothing else is kept, so memory does not grow with the number of layers' activations.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Values kept per tensor for range searches (Horton et al. 2021, section IV-A, use a batch of 2000).
SAMPLES = 2000
# Rows of which channel moments are taken; more would change them by less than a hundredth of a standard deviation.
_MOMENT_ROWS = 16384


@dataclass(frozen=True)
class Statistics:
    """Summary of one tensor, channels last.

    Attributes:
        low, high: Extremes over all values.
        mean, variance: Per channel, shape (channels,), float64.
        samples: Values drawn evenly from all that were seen, float32, shape (<= about SAMPLES,).
        count: Values seen per channel.
    """

    low: float
    high: float
    mean: np.ndarray
    variance: np.ndarray
    samples: np.ndarray
    count: int

    @classmethod
    def of(cls, values: np.ndarray, samples: int, random: np.random.Generator) -> "Statistics":
        """Summary of `values` (..., channels) with about `samples` of them."""
        rows = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(-1, 1)
        flat = rows.reshape(-1)
        drawn = flat if flat.size <= samples else flat[random.integers(flat.size, size=samples)]
        some = rows[:: -(-len(rows) // _MOMENT_ROWS)].astype(np.float64)
        return cls(
            float(flat.min()),
            float(flat.max()),
            some.mean(axis=0),
            some.var(axis=0),
            drawn.astype(np.float32),
            len(rows),
        )

    def merge(self, other: "Statistics") -> "Statistics":
        """Summary of both tensors' values together."""
        count = self.count + other.count
        mean = (self.mean * self.count + other.mean * other.count) / count
        square = (
            (self.variance + np.square(self.mean)) * self.count + (other.variance + np.square(other.mean)) * other.count
        ) / count
        return Statistics(
            min(self.low, other.low),
            max(self.high, other.high),
            mean,
            np.maximum(square - np.square(mean), 0),
            np.concatenate([self.samples, other.samples]),
            count,
        )


def collect(values: Iterable[tuple[str, np.ndarray]], *, batches: int = 1, seed: int = 0) -> dict[str, Statistics]:
    """Statistics of each tensor in a stream of (tensor name, array) pairs; a name may come `batches` times."""
    random = np.random.default_rng(seed)
    share = -(-SAMPLES // batches)
    found: dict[str, Statistics] = {}
    for name, array in values:
        new = Statistics.of(array, share, random)
        found[name] = found[name].merge(new) if name in found else new
    return found


def channel_reaches(values: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Tensor -> largest absolute value of each channel, (channels,), in a stream of (tensor name, array) pairs."""
    found: dict[str, np.ndarray] = {}
    for name, array in values:
        if array.ndim > 1:
            reach = np.abs(array).max(axis=tuple(range(array.ndim - 1)))
            found[name] = np.maximum(found[name], reach) if name in found else reach
    return found
