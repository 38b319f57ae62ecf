"""Images that are made once, and the batches that a student is trained on.

Batch number k holds the images k b to (k + 1) b - 1 of a sequence of permutations, so that every image is seen once before any is
seen again, and so that a batch depends on nothing but its number and the seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfdatafree.recovery.views import View, show


@dataclass(frozen=True)
class Pool:
    """Images, and what they were made for.

    Attributes:
        arrays: One array (n, ...) per graph input.
        labels: Class that each shall show, int32 (n,); None if they were made for none.
    """

    arrays: list[np.ndarray]
    labels: np.ndarray | None = None

    @property
    def size(self) -> int:
        return len(self.arrays[0])

    def first(self, n: int) -> "Pool":
        return Pool([array[:n] for array in self.arrays], None if self.labels is None else self.labels[:n])


def joined(pools: Sequence[Pool]) -> Pool:
    """The images of all pools, one after the other."""
    arrays = [np.concatenate(column) for column in zip(*(pool.arrays for pool in pools), strict=True)]
    labels = [pool.labels for pool in pools if pool.labels is not None]
    return Pool(arrays, np.concatenate(labels) if labels else None)


@dataclass(frozen=True)
class Batch:
    """Images of one step: a tensor (batch, ...) per graph input, and their classes (batch,), if there are any."""

    inputs: list[tf.Tensor]
    labels: tf.Tensor | None


class Batches:
    """Batches of a pool.

    Args:
        views: Show some images mirrored, and all moved a little.
    """

    def __init__(self, pool: Pool, size: int, *, views: bool, seed: int):
        self.pool, self.size = pool, min(size, pool.size)
        self._views, self._seed = views, seed

    def at(self, number: int) -> Batch:
        places = np.arange(number * self.size, (number + 1) * self.size)
        epochs, at = np.divmod(places, self.pool.size)
        orders = {
            epoch: np.random.default_rng([self._seed, epoch]).permutation(self.pool.size) for epoch in set(epochs)
        }
        rows = np.array([orders[epoch][index] for epoch, index in zip(epochs, at, strict=True)])
        view = View(self.size, np.random.default_rng([self._seed, number, 1])) if self._views else None
        labels = None if self.pool.labels is None else tf.constant(self.pool.labels[rows], tf.int32)
        return Batch(show(self.pool.arrays, rows, view), labels)


def in_type(arrays: Sequence[np.ndarray], dtypes: Sequence[str]) -> list[np.ndarray]:
    """Real values as the inputs' types hold them."""
    return [
        np.rint(array).astype(dtype) if "int" in dtype else array.astype(np.float32)
        for array, dtype in zip(arrays, dtypes, strict=True)
    ]
