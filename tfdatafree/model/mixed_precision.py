"""Multiplies kernels in bfloat16: a graph of its own, so that nothing outside it changes its precision.

    y = bfloat16(x) * bfloat16(w) + bfloat16(b),  summed in float32 by the hardware;  then float32 again

bfloat16 has the range of float32, so that gradients need no scaling.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import find_layout

_POLICY = "mixed_bfloat16"


def mixed(graph: Graph) -> Graph:
    """The same graph with layers that multiply kernels in bfloat16. Their outputs need `in_float32`."""
    graph = graph.copy()
    for key, layer in graph.layers.items():
        if find_layout(layer) is not None:
            graph.layers[key] = Layer(_in_bfloat16(layer.operation), layer.weights)
    return graph


def in_float32(tensors: Sequence[Any]) -> tuple:
    """Tensors of bfloat16 as float32; others as they are."""
    return tuple(tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor for tensor in tensors)


def _in_bfloat16(operation):
    copy = object.__new__(type(operation))  # it shares the variables, whose values come with the graph
    copy.__dict__.update(operation.__dict__)
    copy.dtype_policy = keras.DTypePolicy(_POLICY)
    return copy
