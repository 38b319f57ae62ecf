"""Analytic bias correction: corrects biases for the shift of the mean that rounded kernels cause.

b  -= (W_q - W) E[x]                                                        (Nagel et al. 2019, section 4.2, analytic)
so that the mean of every output channel over inputs of mean E[x] is that of the float layer. A layer that is called several times
has one bias. Its E[x] is the mean over all positions that its calls see, so that the mean of all its outputs is that of the float
layer.
"""

import math
from collections.abc import Mapping

import numpy as np

from tfdatafree.model.batchnorm import with_bias
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import find_layout, kernel_of, mean_response


def correct_biases(graph: Graph, reference: Graph, means: Mapping[str, np.ndarray]) -> tuple[Graph, dict[str, str]]:
    """Corrects the bias of every layer whose input's mean is known.

    Args:
        graph: The graph with rounded kernels.
        reference: The same graph with the float kernels.
        means: Tensor -> mean per channel in the float network, (channels,).

    Returns:
        The corrected graph, and {layer: why its bias was not corrected}.
    """
    graph, reasons = graph.copy(), {}
    seen, first = mean_inputs(graph, means), graph.first_calls()
    for key, node in first.items():
        layer = graph.layers[key]
        if find_layout(layer) is None:
            continue
        if key not in seen:
            reasons[key] = "the mean of its input is not known"
            continue
        change = kernel_of(layer) - kernel_of(reference.layers[key])
        shift = mean_response(layer, change, seen[key])
        bias = layer.weight("bias")
        graph.layers[key] = with_bias(
            layer, graph.specs[node.inputs[0]].shape, -shift if bias is None else bias - shift
        )
    return graph, reasons


def mean_inputs(graph: Graph, means: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{layer with a kernel: mean of its input over all its calls, (channels,)}, of those whose inputs all have a mean in `means`.

    A call counts as often as its input has positions.
    """
    sums: dict[str, np.ndarray] = {}
    positions, unknown = dict[str, int](), set[str]()
    for node in graph.nodes:
        if find_layout(graph.layer_of(node)) is None:
            continue
        mean = means.get(node.inputs[0])
        if mean is None:
            unknown.add(node.layer)
            continue
        count = positions_of(graph, node)
        sums[node.layer] = sums.get(node.layer, 0.0) + count * np.asarray(mean, np.float64)
        positions[node.layer] = positions.get(node.layer, 0) + count
    return {key: total / positions[key] for key, total in sums.items() if key not in unknown}


def positions_of(graph: Graph, node: Node) -> int:
    """Number of positions of the tensor that a call reads, over all axes but batch and channels; 1 for each unknown axis."""
    return math.prod(size or 1 for size in graph.specs[node.inputs[0]].shape[1:-1])
