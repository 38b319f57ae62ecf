"""Empirical bias correction: measures on inputs how rounding shifts each output's mean, and corrects the bias.

Layer by layer in execution order, after the layers before it were rounded and corrected,

    b  -=  mean(output of the rounded layer - output of the float layer)      per output channel, over inputs and pixels

so that on these inputs every layer's channels have the means of the float network. A layer that is called several times gets
the mean of its calls' corrections, each counted as often as its output has positions. The analytic correction ignores what
earlier layers, activations and padding do to the shift; here it is measured (Nagel et al. 2019, section 4.2). The result
depends on how similar the inputs are to real ones.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.measuring.walks import one_batch
from tfdatafree.model.batchnorm import with_bias
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import find_layout


def correct_biases_on_inputs(
    graph: Graph, reference: Graph, inputs: Sequence[np.ndarray]
) -> tuple[Graph, dict[str, str]]:
    """Corrects the bias of every layer. Activations are not rounded.

    Args:
        graph: The graph with rounded kernels.
        reference: The same graph with the float kernels.
        inputs: One array per graph input, batch first. As many inputs are used as fit into one batch. Only the live tensors
            of both networks for this batch are in memory.

    Returns:
        The corrected graph, and {layer: why its bias was not corrected}, which is empty: this correction needs no statistics.
    """
    corrected, first = graph.copy(), graph.first_calls()
    shifts: dict[str, np.ndarray] = {}
    positions: dict[str, int] = {}
    batch = one_batch(graph, inputs)
    reference_walk = reference.walk(batch)

    def call(node: Node, live: Mapping[str, Any]) -> tuple:
        outputs = graph.call(node, live)
        _, reference_live = next(reference_walk)
        layer = graph.layer_of(node)
        if find_layout(layer) is None:
            return outputs
        difference = outputs[0] - reference_live[node.output]
        shift = tf.reduce_mean(difference, axis=list(range(len(difference.shape) - 1)))
        count = math.prod(difference.shape[1:-1])
        shifts[node.layer] = shifts.get(node.layer, 0.0) + count * np.asarray(shift, np.float64)
        positions[node.layer] = positions.get(node.layer, 0) + count
        return (outputs[0] - shift,)

    for _ in graph.walk(batch, call):
        pass
    for key, total in shifts.items():
        layer, change = graph.layers[key], total / positions[key]
        bias, shape = layer.weight("bias"), graph.specs[first[key].inputs[0]].shape
        corrected.layers[key] = with_bias(layer, shape, -change if bias is None else bias - change)
    return corrected, {}
