"""Computes once what a graph computes twice: equal operations without weights on the same tensors.

relu(x), relu(x)  ->  one relu(x), read by both readers
The converter does so anyway; done here, the tensor that is left in the file is the tensor of the graph.
"""

import json

import keras

from tfdatafree.model.graph import Graph, Node


def merge_twins(graph: Graph) -> Graph:
    """The same function with each operation once."""
    graph = graph.copy()
    first: dict[str, str] = {}
    for name in [node.name for node in graph.nodes]:
        node = graph.node(name)
        described = _describe(graph, node)
        if described is None or node.output in graph.outputs:
            continue
        twin = first.setdefault(described, node.output)
        if twin != node.output:
            graph.redirect(node.output, twin)
            graph.replace(graph.node(name))
            del graph.specs[node.output]
    return graph


def _describe(graph: Graph, node: Node) -> str | None:
    """A text that two nodes share if they compute the same; None for nodes that are left alone."""
    layer = graph.layer_of(node)
    operation = layer.operation
    if not isinstance(operation, keras.layers.Layer) or layer.weights or len(node.outputs) > 1:
        return None
    config = {key: value for key, value in operation.get_config().items() if key != "name"}
    return json.dumps([layer.class_name, config, repr(node.args), repr(node.kwargs)], sort_keys=True, default=repr)
