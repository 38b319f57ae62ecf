"""Shows images from other views: some mirrored, all moved a little, so that a network learns more from few of them."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# The largest move of an image, as a part of its size.
_LARGEST_MOVE = 0.125


class View:
    """How the images of a batch are shown: some mirrored, all moved. The teacher's features are computed from the same view."""

    def __init__(self, n: int, random: np.random.Generator):
        self.mirrored = random.random(n) < 0.5
        self.moves = random.uniform(-_LARGEST_MOVE, _LARGEST_MOVE, (2, n))

    def of(self, array: np.ndarray) -> np.ndarray:
        """Images (n, height, width, channels), reflected at their borders; any other array unchanged."""
        if array.ndim != 4:
            return array
        rows, columns = (
            _reflect(np.rint(move * size).astype(int)[:, None] + np.arange(size), size)
            for move, size in zip(self.moves, array.shape[1:3], strict=True)
        )
        columns = np.where(self.mirrored[:, None], columns[:, ::-1], columns)
        return array[np.arange(len(array))[:, None, None], rows[:, :, None], columns[:, None, :]]


def show(arrays: Sequence[np.ndarray], rows: np.ndarray, view: View | None) -> list[tf.Tensor]:
    """These rows of each array, as tensors; from the view, if there is one."""
    return [tf.constant(array[rows] if view is None else view.of(array[rows])) for array in arrays]


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Indices beyond either end of an axis of `size` values, reflected into it."""
    last = size - 1
    return last - np.abs(last - np.abs(index))
