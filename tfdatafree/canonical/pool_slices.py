"""Replaces slices that take every k-th row and column by poolings, for devices that compute poolings but not such slices.

x[:, ::a, ::b, :]  ->  MaxPooling2D(pool_size=1, strides=(a, b))
so that every value, float or integer, is unchanged: the maximum over one value is that value.
"""

import keras

from tfdatafree.model.graph import Graph
from tfdatafree.model.layer import weightless
from tfdatafree.model.node import Node, Ref
from tfdatafree.model.rewrite import Rewrite

_ALL = slice(None)


def pool_slices(graph: Graph) -> Rewrite:
    """The same function with each slice of this kind made a pooling."""
    graph = graph.copy()
    calls = graph.calls()
    for at, node in enumerate(graph.nodes):
        strides = _strides(graph, node)
        if strides is None or calls[node.layer] > 1:
            continue
        graph.layers[node.layer] = weightless(keras.layers.MaxPooling2D, pool_size=1, strides=strides, name=node.layer)
        graph.nodes[at] = Node(node.name, node.layer, (Ref(node.inputs[0]),), {}, node.outputs)
    return Rewrite(graph=graph)


def _strides(graph: Graph, node: Node) -> tuple[int, int] | None:
    """Steps along height and width of a slice that does nothing but skip rows and columns; None for any other node."""
    if (
        graph.layer_of(node).class_name != "GetItem"
        or len(node.args) != 2
        or not isinstance(node.args[1], (list, tuple))
    ):
        return None
    # The key is a list in a model that was saved and loaded.
    shape, parts = graph.specs[node.inputs[0]].shape, tuple(node.args[1])
    if len(shape) != 4 or len(parts) not in (3, 4) or not all(isinstance(part, slice) for part in parts):
        return None
    batch, rows, columns, *channels = parts
    if any(part != _ALL for part in (batch, *channels)):
        return None
    if any(part.start not in (None, 0) or part.stop is not None for part in (rows, columns)):
        return None
    steps = (rows.step or 1, columns.step or 1)
    return steps if min(steps) > 0 and max(steps) > 1 else None
