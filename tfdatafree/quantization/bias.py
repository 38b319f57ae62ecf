"""Analytic bias correction: the mean shift of rounded kernels taken back out of the biases."""

from collections.abc import Mapping

import numpy as np

from tfdatafree.model.batchnorm import with_bias
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of, layout_of, mean_response


def correct_biases(graph: Graph, teacher: Graph, means: Mapping[str, np.ndarray]) -> tuple[Graph, dict[str, str]]:
    """Analytic bias correction of every layer whose input's mean is known.

    Args:
        graph: The graph with rounded kernels.
        teacher: The same graph with the float kernels.
        means: Tensor -> mean per channel of the float network, shape (channels,).

    Returns:
        The corrected graph, and {layer key: why it was left alone}.
    """
    graph, kept = graph.copy(), {}
    calls = graph.calls()
    for node in graph.nodes:
        layer = graph.layer_of(node)
        if layout_of(layer) is None:
            continue
        mean = means.get(node.inputs[0])
        if calls[node.layer] > 1:
            kept[node.layer] = "it is shared by several calls, whose inputs differ"
        elif mean is None:
            kept[node.layer] = "the mean of its input is not known"
        else:
            change = kernel_of(layer) - kernel_of(teacher.layers[node.layer])
            shift = mean_response(layer, change, mean)
            bias = layer.weight("bias")
            graph.layers[node.layer] = with_bias(
                layer, graph.specs[node.inputs[0]].shape, -shift if bias is None else bias - shift
            )
    return graph, kept
