"""Graphs executed on many inputs, a batch at a time."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfdatafree.model.graph import Graph

# Bytes that the largest activation of one batch may take.
_BATCH_BYTES = 2**26


def batch_size(graph: Graph) -> int:
    """Inputs per batch such that no activation of the batch takes more than a fixed number of bytes."""
    return max(1, _BATCH_BYTES // largest_activation(graph))


def largest_activation(graph: Graph) -> int:
    """Bytes of the largest tensor of one example."""
    return max(4 * int(np.prod([size or 1 for size in spec.shape[1:]])) for spec in graph.specs.values())


def predict_in_batches(graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs (n, ...), computed in batches of bounded memory."""
    step = batch_size(graph)
    parts = [
        graph.predict([tf.convert_to_tensor(array[at : at + step]) for array in inputs])
        for at in range(0, len(inputs[0]), step)
    ]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
