"""Puts a small graph in place of a node."""

import dataclasses
from collections.abc import Sequence

import keras

from tfdatafree.model.graph import Graph, Node


def put_in_place(graph: Graph, node: Node, model: keras.Model, labels: Sequence[str] | None = None) -> None:
    """Replaces `node` by the layers of `model`, which has one input and the node's outputs and computes the same.

    Args:
        labels: Ends of the new nodes' names, in execution order; None: what they compute.
    """
    parts = Graph.from_keras(model)
    parts.redirect(parts.inputs[0], node.inputs[0])
    added = []
    for at, part in enumerate(list(parts.nodes)):
        # Keras numbers operations over the whole process, so the names that it gave here could change from run to run.
        label = parts.layer_of(part).class_name.lower() if labels is None else labels[at]
        key = graph.fresh_name(f"{node.name}_{label}")
        graph.layers[key] = parts.layer_of(part)
        tensor = key
        if part.output in parts.outputs:
            tensor = node.outputs[parts.outputs.index(part.output)]
        name = node.name if tensor == node.output else key
        graph.specs[tensor] = graph.specs.get(tensor, parts.specs[part.output])
        parts.redirect(part.output, tensor)
        added.append(dataclasses.replace(parts.node(part.name), name=name, layer=key, outputs=(tensor,)))
    graph.replace(node, *added)
