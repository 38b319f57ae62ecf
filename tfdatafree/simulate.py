"""The Keras model that computes what an integer file computes, in float."""

from collections.abc import Mapping

import keras

from tfdatafree.graph import Graph, Layer, Node, Ref
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.quantizer_layer import Quantization


def insert_quantizers(graph: Graph, grids: Mapping[str, Quantizer]) -> Graph:
    """`graph` with a Quantization layer behind each tensor named in `grids`."""
    graph = graph.copy()
    producers = graph.producers()
    for tensor, grid in grids.items():
        name = graph.fresh_name(f"{tensor}_quantized".replace(":", "_"))
        layer = Quantization(float(grid.scale), int(grid.zero_point), grid.bits, name=name)
        graph.redirect(tensor, name)
        graph.layers[name] = Layer(layer)
        graph.specs[name] = graph.specs[tensor]
        at = graph.nodes.index(_current(graph, producers[tensor])) + 1 if tensor in producers else 0
        graph.nodes.insert(at, Node(name, name, (Ref(tensor),), {}, (name,)))
    return graph


def _current(graph: Graph, node: Node) -> Node:
    """The node of that name as it stands now: redirecting rewrites nodes."""
    return next(other for other in graph.nodes if other.name == node.name)


def simulated_model(graph: Graph, grids: Mapping[str, Quantizer]) -> keras.Model:
    """A plain Keras model of `graph` (weights already on their grids) with activations rounded to `grids`."""
    return insert_quantizers(graph, grids).to_keras()
