"""Takes the mean shift that rounding and clipping activations causes out of the biases behind them.

A coarse grid moves the mean of a channel: one that stays below half a step becomes 0, one beyond the range is cut. With
x the input of a layer with generated values, Q its grid and W its kernel,

    b -= W E[Q(x) - x]                                                              per channel of x
so that the mean of every output channel, away from zero padding, is what it is without Q.
x comes from images with every BatchNorm's statistics put right, where channels have the spread that they had in training.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from tfdatafree.model.batchnorm import with_bias
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of, layout_of, mean_response
from tfdatafree.numerics.affine import Quantizer

# Rows of which a channel's shift is taken.
_ROWS = 4096


def activation_shifts(
    values: Iterable[tuple[str, np.ndarray]], grids: Mapping[str, Quantizer]
) -> dict[str, np.ndarray]:
    """{tensor: E[Q(x) - x] per channel, float64} for every tensor of a walk that has a grid."""
    found: dict[str, np.ndarray] = {}
    for tensor, array in values:
        if tensor in grids and array.ndim > 1:
            rows = array.reshape(-1, array.shape[-1])
            rows = rows[:: -(-len(rows) // _ROWS)]
            found[tensor] = np.asarray(grids[tensor](rows) - rows, np.float64).mean(axis=0)
    return found


def correct_activation_shifts(graph: Graph, shifts: Mapping[str, np.ndarray]) -> tuple[Graph, dict[str, str]]:
    """The graph with corrected biases, and {layer key: why it was left alone} for layers that read a shifted tensor."""
    graph, kept = graph.copy(), {}
    calls = graph.calls()
    for node in graph.nodes:
        layer = graph.layer_of(node)
        if layout_of(layer) is None or node.inputs[0] not in shifts:
            continue
        if calls[node.layer] > 1:
            kept[node.layer] = "it is shared by several calls, whose inputs differ"
            continue
        moved = mean_response(layer, kernel_of(layer), shifts[node.inputs[0]])
        bias, shape = layer.weight("bias"), graph.specs[node.inputs[0]].shape
        graph.layers[node.layer] = with_bias(layer, shape, -moved if bias is None else bias - moved)
    return graph, kept
