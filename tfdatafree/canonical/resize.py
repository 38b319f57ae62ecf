"""Gives a graph another input size than it was built for, where its layers work at that size.

Weights of convolutions and BatchNorms fit any image size. Layers that flatten or reshape an image may not.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.model.graph import Graph, Node, TensorSpec
from tfdatafree.model.rewrite import Rewrite


def resize(graph: Graph, shape: Sequence[int]) -> Rewrite:
    """`graph` with the static shapes that its tensors have for inputs of `shape`. It has one input.

    Args:
        shape: Of an input, without the batch.

    Raises:
        UnsupportedModelError: A layer cannot work at that size; the error names it.
    """
    resized = graph.copy()
    built, source = graph.specs[graph.inputs[0]], graph.inputs[0]

    def call(node: Node, live) -> tuple:
        try:
            outputs = graph.call(node, live)
            if any(0 in output.shape for output in outputs):
                raise ValueError("nothing is left of the image there")
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UnsupportedModelError(
                f"'{node.name}' ({graph.layer_of(node).class_name}) cannot work on inputs of shape {tuple(shape)}, only on "
                f"{built.shape[1:]}: {reason} Give images of that size."
            ) from error
        return outputs

    resized.specs[source] = TensorSpec((built.shape[0], *shape), built.dtype)
    for node, live in graph.walk([tf.zeros((1, *shape), built.dtype)], call):
        for tensor in node.outputs:
            spec = graph.specs[tensor]
            resized.specs[tensor] = dataclasses.replace(spec, shape=(spec.shape[0], *np.shape(live[tensor])[1:]))
    return Rewrite(graph=resized)
