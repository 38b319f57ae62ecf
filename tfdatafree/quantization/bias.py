"""Analytic bias correction: corrects biases for the shift of the mean that rounded kernels cause.

b  -= (W_q - W) E[x]                                                        (Nagel et al. 2019, section 4.2, analytic)
so that the mean of every output channel over inputs of mean E[x] is that of the float layer.
"""

from collections.abc import Mapping

import numpy as np

from tfdatafree.model.batchnorm import with_bias
from tfdatafree.model.graph import Graph
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
    calls = graph.calls()
    for node in graph.nodes:
        layer = graph.layer_of(node)
        if find_layout(layer) is None:
            continue
        mean = means.get(node.inputs[0])
        if calls[node.layer] > 1:
            reasons[node.layer] = "it is shared by several calls, whose inputs differ"
        elif mean is None:
            reasons[node.layer] = "the mean of its input is not known"
        else:
            change = kernel_of(layer) - kernel_of(reference.layers[node.layer])
            shift = mean_response(layer, change, mean)
            bias = layer.weight("bias")
            graph.layers[node.layer] = with_bias(
                layer, graph.specs[node.inputs[0]].shape, -shift if bias is None else bias - shift
            )
    return graph, reasons
