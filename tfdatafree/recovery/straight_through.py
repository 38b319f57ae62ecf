"""Rounds to a grid in the forward pass, with the gradients that training needs.

    y = s clip(round(x / s), l, h)                  l = qmin - zero_point,  h = qmax - zero_point
    dy/dx = 1 between s l and s h, else 0           (the straight-through estimator)
    dy/ds = round(x / s) - x / s between, l below, h above          (Esser et al. 2020, arXiv 1902.08153, eq. 3)

so that y are the very values that the integer file computes with, and both x and s can be trained.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.numerics.affine import Quantizer


def straight_through(x: tf.Tensor, grid: Quantizer) -> tf.Tensor:
    """`x` on the grid, any shape."""
    x = tf.cast(x, tf.float32)
    scale, low, high = (along(values, grid, len(x.shape)) for values in (grid.scale, grid.low, grid.high))
    clipped = tf.clip_by_value(x, low, high)
    return clipped + tf.stop_gradient(tf.round(clipped / scale) * scale - clipped)


def straight_through_trained(x: tf.Tensor, scale: tf.Tensor, grid: Quantizer) -> tf.Tensor:
    """`x` on the grid with `scale`, of the same shape, in place of the grid's own.

    The gradient is written out, because each of the elementary steps would pass all values through memory once more.
    """
    x = tf.cast(x, tf.float32)
    rank = len(x.shape)
    low, high = (along(q - grid.zero_point, grid, rank) for q in (grid.qmin, grid.qmax))
    axes = [axis for axis in range(rank) if grid.channel_axis is None or axis != grid.channel_axis % rank]
    return round_between(x, tf.reshape(scale, shape_along(grid, rank)), low, high, axes)


def round_between(x: tf.Tensor, size: tf.Tensor, low: Any, high: Any, axes: Sequence[int]) -> tf.Tensor:
    """`x` as `size` times whole numbers between `low` and `high`, which broadcast with it.

    Args:
        axes: Axes along which all values have one size: all, or all but one.
    """
    rank = len(x.shape)

    @tf.custom_gradient
    def rounded(x, size):
        steps = x / size
        clipped = tf.clip_by_value(steps, low, high)
        y = tf.round(clipped) * size

        def gradient(upstream):
            of_x = tf.where(steps == clipped, upstream, 0.0)
            # Outside, of_x is 0, and y / s is the end of the grid.
            of_scale = tf.reduce_sum(upstream * y, axes) / tf.reshape(size, [-1] if len(axes) < rank else [])
            of_scale -= tf.reduce_sum(of_x * clipped, axes)
            return of_x, tf.reshape(of_scale, size.shape)

        return y, gradient

    return rounded(x, size)


def along(values: float | np.ndarray, grid: Quantizer, rank: int) -> np.ndarray:
    """`values` of the grid's channels, float32, in a shape that broadcasts with an array of that rank."""
    return np.asarray(values, np.float32).reshape(shape_along(grid, rank) if np.ndim(values) else ())


def shape_along(grid: Quantizer, rank: int) -> list[int]:
    """The shape of the grid's scales that broadcasts with an array of that rank."""
    if grid.channel_axis is None:
        return []
    shape = [1] * rank
    shape[grid.channel_axis] = np.size(grid.scale)
    return shape
