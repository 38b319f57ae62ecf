"""Layers that Keras computes with several TensorFlow operators, computed with the one that TFLite has for them.

    UpSampling2D, nearest   repeat, repeat                   ->  RESIZE_NEAREST_NEIGHBOR
    argmax, argmin          tests the sign of zero before    ->  ARG_MAX, ARG_MIN
    MaxPooling3D            MaxPool3D, which TFLite lacks    ->  MAX_POOL_2D over the rows and columns, then over the depth

so that the values are the same. (Where the largest values are 0.0 and -0.0, argmax takes the first of them.)
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def in_one_operator(operation: Any) -> Callable[[Any], Any] | None:
    """A function of one tensor that computes what `operation` does; None where Keras's own way is the best."""
    if isinstance(operation, keras.layers.UpSampling2D):
        nearest = operation.interpolation == "nearest" and operation.data_format == "channels_last"
        return _nearest(tuple(operation.size)) if nearest else None
    if isinstance(operation, keras.layers.MaxPooling3D):
        return _pooling_3d(operation) if operation.data_format == "channels_last" else None
    if type(operation).__name__ in ("Argmax", "Argmin") and operation.axis is not None:
        return _position(operation)
    return None


def _nearest(factors: tuple[int, int]) -> Callable:
    def resize(x):
        size = [length * factor for length, factor in zip(x.shape[1:3], factors, strict=True)]
        return tf.image.resize(x, size, "nearest")

    return resize


def _pooling_3d(operation: Any) -> Callable:
    window, strides, padding = operation.pool_size, operation.strides, operation.padding.upper()

    def pool(x):
        depth, rows, columns, channels = x.shape[1:]
        x = tf.reshape(x, (-1, rows, columns, channels))
        x = tf.nn.max_pool2d(x, window[1:], strides[1:], padding)
        rows, columns = x.shape[1:3]
        x = tf.reshape(x, (-1, depth, rows * columns, channels))
        x = tf.nn.max_pool2d(x, (window[0], 1), (strides[0], 1), padding)
        return tf.reshape(x, (-1, x.shape[1], rows, columns, channels))

    return pool


def _position(operation: Any) -> Callable:
    find = tf.argmax if type(operation).__name__ == "Argmax" else tf.argmin

    def position(x):
        found = find(x, operation.axis, output_type=tf.int32)
        return tf.expand_dims(found, operation.axis) if operation.keepdims else found

    return position
