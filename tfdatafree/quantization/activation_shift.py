"""Corrects biases for the shift of the mean that rounding and clipping of activations causes.

A coarse grid shifts the mean of a channel: values below half the scale become 0, and values beyond the range are clipped.
With x the generated input of a layer, Q the grid of x and W the kernel,

    b -= W E[Q(x) - x]                                                              per channel of x
so that the mean of every output channel, away from zero padding, is the same as without Q.
The walk that x comes from restores every BatchNorm's statistics, so that channels have the spread that they had in training.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from tfdatafree.model.batchnorm import with_bias
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of, mean_response
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.quantization.bias import mean_inputs

# Rows on which the shift of a channel is measured.
_ROWS = 4096


def measure_shifts(values: Iterable[tuple[str, np.ndarray]], grids: Mapping[str, Quantizer]) -> dict[str, np.ndarray]:
    """{tensor: E[Q(x) - x] per channel, float64} for every tensor of a walk that has a grid."""
    shifts: dict[str, np.ndarray] = {}
    for tensor, array in values:
        if tensor in grids and array.ndim > 1:
            rows = array.reshape(-1, array.shape[-1])
            rows = rows[:: -(-len(rows) // _ROWS)]
            shifts[tensor] = np.asarray(grids[tensor](rows) - rows, np.float64).mean(axis=0)
    return shifts


def correct_activation_shifts(graph: Graph, shifts: Mapping[str, np.ndarray]) -> tuple[Graph, dict[str, str]]:
    """The graph with corrected biases, and {layer: why its bias was not corrected} for layers that read a shifted tensor.

    A layer that is called several times is corrected for the mean shift over all its calls.
    """
    graph, reasons = graph.copy(), {}
    seen = mean_inputs(graph, shifts)
    for node in graph.nodes:
        if node.inputs and node.inputs[0] in shifts and node.layer not in seen and find_layout(graph.layer_of(node)):
            reasons[node.layer] = "the shift of the input of one of its calls is not known"
    for key, node in graph.first_calls().items():
        if key in seen:
            layer = graph.layers[key]
            change = mean_response(layer, kernel_of(layer), seen[key])
            bias, shape = layer.weight("bias"), graph.specs[node.inputs[0]].shape
            graph.layers[key] = with_bias(layer, shape, -change if bias is None else bias - change)
    return graph, reasons
