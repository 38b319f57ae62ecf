"""Images (or signals) passed through a model, layer by layer, in small batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.model.batchnorm import is_batchnorm, output_moments
from tfdatafree.model.graph import Graph, Layer, Node

# Bytes that the largest activation of one batch may take where statistics run over the batch: such a batch should not be small.
_NORMALIZED_BYTES = 2**27
_FEWEST_NORMALIZED = 4


# (number of examples, seed) -> generated inputs, one array (n, *shape) per input of a graph.
Draw = Callable[[int, int], list[np.ndarray]]


def image_walk(graph: Graph, inputs: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (tensor, values) for every tensor of the graph, batch after batch; only live tensors are in memory."""
    step, graph = graph.batch_size(), graph.with_tensors()
    for start in range(0, len(inputs[0]), step):
        batch = [tf.convert_to_tensor(array[start : start + step]) for array in inputs]
        yield from ((tensor, np.asarray(value)) for tensor, value in zip(graph.inputs, batch, strict=True))
        for node, live in graph.walk(batch):
            for tensor in node.outputs:
                yield tensor, np.asarray(live[tensor])


def number_of_batches(graph: Graph, n: int) -> int:
    return -(-n // graph.batch_size())


def normalized_batch_size(graph: Graph, largest: int = _NORMALIZED_BYTES) -> int:
    """The most inputs that one `normalized_walk` takes: so many that no activation of theirs takes more than `largest` bytes."""
    return max(_FEWEST_NORMALIZED, largest // graph.largest_activation())


def one_batch(graph: Graph, inputs: Sequence[np.ndarray], largest: int = _NORMALIZED_BYTES) -> list[tf.Tensor]:
    """The inputs as one batch, fewer of them where its largest activation would take more than `largest` bytes."""
    count = normalized_batch_size(graph, largest)
    return [tf.convert_to_tensor(array[:count]) for array in inputs]


def normalized_walk(
    graph: Graph, inputs: Sequence[np.ndarray], *, restore: bool = True
) -> Iterator[tuple[str, np.ndarray]]:
    """`image_walk` on an unfolded graph with each BatchNorm's input standardised over the batch.

    The BatchNorm's output then has exactly the mean and standard deviation that it had on the training data, whatever
    images are passed through: their spatial and cross-channel structure is kept, their first two moments are put right.
    All inputs pass as one batch, fewer of them where that would take too much memory.

    Args:
        restore: False: nothing is put right. Real inputs tell more about themselves than stored statistics do.
    """
    batch = one_batch(graph, inputs)

    def call(node: Node, live: Mapping[str, Any]) -> tuple:
        layer = graph.layer_of(node)
        if not (restore and is_batchnorm(layer)):
            return graph.call(node, live)
        return (standardize(layer, live[node.inputs[0]]),)

    yield from ((tensor, np.asarray(value)) for tensor, value in zip(graph.inputs, batch, strict=True))
    for node, live in graph.walk(batch, call):
        for tensor in node.outputs:
            yield tensor, np.asarray(live[tensor])


def standardize(layer: Layer, x: tf.Tensor, *, constant: bool = False) -> tf.Tensor:
    """`x` with the channel means and standard deviations of the BatchNorm's output on its training data.

    Args:
        constant: Gradients take the batch's own statistics for constants, as a BatchNorm in inference does.
    """
    axis = layer.operation.axis % len(x.shape)
    mean, variance = tf.nn.moments(x, [other for other in range(len(x.shape)) if other != axis], keepdims=True)
    if constant:
        mean, variance = tf.stop_gradient(mean), tf.stop_gradient(variance)
    beta, sd = output_moments(layer)
    gamma = layer.weight("gamma")
    gain = sd if gamma is None else sd * np.sign(gamma)
    shape = [-1 if other == axis else 1 for other in range(len(x.shape))]
    # A channel that these images leave constant stays at its mean.
    least = np.minimum(1e-12, 1e-3 * layer.required_weight("moving_variance")).reshape(shape) + 1e-37
    inverse = tf.where(variance > least, tf.math.rsqrt(tf.maximum(variance, least)), 0.0)
    scale = inverse * gain.astype(np.float32).reshape(shape)
    return x * scale + (beta.astype(np.float32).reshape(shape) - mean * scale)
