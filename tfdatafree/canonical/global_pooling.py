"""Makes an average pooling over the whole feature map a global one.

AveragePooling2D(pool_size = size of the map)  ->  GlobalAveragePooling2D(keepdims=True)
so that the function is unchanged and the integer file averages with MEAN in place of AVERAGE_POOL_2D.
The output of AVERAGE_POOL_2D must have the grid of its input, which is coarse for averages: they are much smaller than the
largest pixel. The output of MEAN has a grid of its own.
"""

import keras

from tfdatafree.model.graph import Graph
from tfdatafree.model.layer import weightless
from tfdatafree.model.rewrite import Rewrite

_GLOBAL = {
    keras.layers.AveragePooling1D: keras.layers.GlobalAveragePooling1D,
    keras.layers.AveragePooling2D: keras.layers.GlobalAveragePooling2D,
}


def globalize_pooling(graph: Graph) -> Rewrite:
    """The same function with each average pooling over the whole map made a global one."""
    graph = graph.copy()
    for node in graph.nodes:
        operation = graph.operation_of(node)
        if type(operation) not in _GLOBAL or graph.calls()[node.layer] > 1:
            continue
        window = tuple(operation.pool_size)
        if window == graph.specs[node.inputs[0]].shape[1:-1] and set(graph.specs[node.output].shape[1:-1]) == {1}:
            graph.layers[node.layer] = weightless(_GLOBAL[type(operation)], keepdims=True, name=node.layer)
    return Rewrite(graph=graph)
