"""Makes an average pooling over the whole feature map a global one.

AveragePooling2D(pool_size = map size)  ->  GlobalAveragePooling2D(keepdims=True)
so that the function is unchanged, and the integer file averages with MEAN, whose output has a grid of its own, in place of
AVERAGE_POOL_2D, whose output must keep its input's: averages are much smaller than the largest pixel.
"""

import keras

from tfdatafree.model.graph import Graph, Layer

_GLOBAL = {
    keras.layers.AveragePooling1D: keras.layers.GlobalAveragePooling1D,
    keras.layers.AveragePooling2D: keras.layers.GlobalAveragePooling2D,
}


def globalize_pooling(graph: Graph) -> Graph:
    """The same function with every whole-map average pooling made global."""
    graph = graph.copy()
    for node in graph.nodes:
        operation = graph.operation_of(node)
        if type(operation) not in _GLOBAL or graph.calls()[node.layer] > 1:
            continue
        window = tuple(operation.pool_size)
        if window == graph.specs[node.inputs[0]].shape[1:-1] and set(graph.specs[node.output].shape[1:-1]) == {1}:
            whole = _GLOBAL[type(operation)](keepdims=True, name=node.layer)
            graph.layers[node.layer] = Layer(whole)
    return graph
