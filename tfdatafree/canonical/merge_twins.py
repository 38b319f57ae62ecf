"""Merges equal operations that read the same tensors: those without weights, and calls of one layer.

relu(x), relu(x)  ->  one relu(x), which all readers of the two read
so that the function is unchanged. The converter merges them, too. Merged here, each tensor of the file is also one of the graph.
"""

import json

import keras

from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.rewrite import Rewrite


def merge_twins(graph: Graph) -> Rewrite:
    """The same function with each operation computed once, but for twins that are both outputs of the model."""
    graph = graph.copy()
    first: dict[str, str] = {}
    for name in [node.name for node in graph.nodes]:
        node = graph.node(name)
        described = _describe(graph, node)
        if described is None:
            continue
        twin = graph.node(first.setdefault(described, name))
        if twin.name == name or {twin.output, node.output} <= set(graph.outputs):
            continue
        graph.replace(node)
        if node.output in graph.outputs:
            # An output of the model keeps its name.
            graph.redirect(twin.output, node.output)
            graph.rename_output(graph.node(twin.name), node.output)
            del graph.specs[twin.output]
        else:
            graph.redirect(node.output, twin.output)
            del graph.specs[node.output]
    return Rewrite(graph=graph)


def _describe(graph: Graph, node: Node) -> str | None:
    """A text that is the same for two nodes that compute the same; None for a node that this pass leaves alone."""
    layer = graph.layer_of(node)
    operation = layer.operation
    if not isinstance(operation, keras.layers.Layer) or len(node.outputs) > 1:
        return None
    if layer.weights:
        return json.dumps([node.layer, repr(node.args), repr(node.kwargs)])
    config = {key: value for key, value in operation.get_config().items() if key != "name"}
    return json.dumps([layer.class_name, config, repr(node.args), repr(node.kwargs)], sort_keys=True, default=repr)
