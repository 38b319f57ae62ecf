"""Rounds to a grid in the forward pass, with the gradients that training needs.

    y = s clip(round(x / s), l, h)                  l = qmin - zero_point,  h = qmax - zero_point
    dy/dx = 1 between s l and s h, else 0           (the straight-through estimator)
    dy/ds = round(x / s) - x / s between, l below, h above          (Esser et al. 2020, arXiv 1902.08153, eq. 3)

so that y are the very values that the integer file computes with, and both x and s can be trained.
"""

import numpy as np
import tensorflow as tf

from tfdatafree.numerics.affine import Quantizer


def straight_through(x: tf.Tensor, grid: Quantizer, scale: tf.Tensor | None = None) -> tf.Tensor:
    """`x` on the grid, any shape.

    Args:
        scale: The scale in place of the grid's own, of the same shape, where it is trained.
    """
    rank = len(x.shape)
    x = tf.cast(x, tf.float32)
    if scale is None:
        size, low, high = (along(values, grid, rank) for values in (grid.scale, grid.low, grid.high))
    else:
        size = tf.reshape(scale, shape_along(grid, rank))
        low, high = (size * along(q - grid.zero_point, grid, rank) for q in (grid.qmin, grid.qmax))
    clipped = tf.clip_by_value(x, low, high)
    rounded = tf.round(clipped / size)
    y = clipped + tf.stop_gradient(rounded * size - clipped)
    if scale is None:
        return y
    # Adds 0: what clipping leaves out of the gradient of the scale.
    return y + (size - tf.stop_gradient(size)) * tf.stop_gradient(rounded - clipped / size)


def along(values: float | np.ndarray, grid: Quantizer, rank: int) -> np.ndarray:
    """`values` of the grid's channels, float32, in a shape that broadcasts with an array of that rank."""
    return np.asarray(values, np.float32).reshape(shape_along(grid, rank) if np.ndim(values) else ())


def shape_along(grid: Quantizer, rank: int) -> list[int]:
    """The shape of the grid's scales that broadcasts with an array of that rank."""
    if grid.channel_axis is None:
        return []
    shape = [1] * rank
    shape[grid.channel_axis] = -1
    return shape
