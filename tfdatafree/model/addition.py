"""Sums of tensors, the same for each example of a batch as for this example alone.

Keras takes the second operand of a sum for a bias where only one of its axes is longer than 1, and adds it along the axis of
channels if that is as long. With one example, or one value per example, it may be another axis:

    (1, 12, 12) + (1, 12, 1)      a value per position, which would be added to the channel of that number
    (8, 8) + (8, 1)               a value per example, likewise

Here an operand that is a tensor of the network is added by broadcasting, so that every example has the sum that Keras computes
in a batch of any other size.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def adds_tensors(operation: Any) -> bool:
    """Whether the operation is a sum, or a mean, of several tensors."""
    if type(operation) in (keras.layers.Add, keras.layers.Average):
        return True
    return type(operation).__name__ == "Add" and type(operation).__module__.startswith("keras.")


def sum_of(operation: Any, operands: Sequence[Any]) -> tf.Tensor | None:
    """The sum (of an Average layer the mean) of tensors; None if they are of several types, which Keras converts.

    Args:
        operation: One that `adds_tensors`.
        operands: Tensors or arrays, batch first. The first one may also be a constant.
    """
    like = tf.convert_to_tensor(operands[1])
    if not like.dtype.is_floating or any(tf.as_dtype(getattr(x, "dtype", like.dtype)) != like.dtype for x in operands):
        return None
    tensors = [tf.convert_to_tensor(x, like.dtype) for x in operands]
    if isinstance(operation, keras.layers.Layer):  # it gives operands of fewer axes the others behind the batch
        rank = max(len(x.shape) for x in tensors)
        tensors = [_with_rank(x, rank) for x in tensors]
    total = tensors[0]
    for x in tensors[1:]:
        total = tf.add(total, x)
    return total / len(tensors) if type(operation) is keras.layers.Average else total


def _with_rank(x: tf.Tensor, rank: int) -> tf.Tensor:
    for _ in range(rank - len(x.shape)):
        x = tf.expand_dims(x, 1)
    return x
