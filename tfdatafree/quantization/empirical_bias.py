"""Bias correction by looking: what rounding moves each output's mean by, on inputs passed through both networks.

Layer by layer in execution order, with the layers before it rounded and corrected already,

    b  -=  mean(student's output - teacher's output)          one per output channel, over inputs and pixels

so that on these inputs every layer's channels have the float network's means: what earlier layers left, an activation
or padding did to the shift and the analytic correction does not know of is seen here (Nagel et al. 2019, section 4.2). It can
be no better than the inputs are like real ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.measuring.walks import one_batch
from tfdatafree.model.batchnorm import with_bias
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import layout_of


def correct_biases_on_inputs(
    graph: Graph, teacher: Graph, inputs: Sequence[np.ndarray]
) -> tuple[Graph, dict[str, str]]:
    """Empirical bias correction of every layer that is called once. Activations are not rounded.

    Args:
        graph: The graph with rounded kernels.
        teacher: The same graph with the float kernels.
        inputs: One array per graph input, batch first; as many are used as fit into one batch. Beside the two networks'
            live tensors of that batch nothing is held.

    Returns:
        The corrected graph, and {layer key: why it was left alone}.
    """
    corrected, kept = graph.copy(), {}
    calls = graph.calls()
    batch = one_batch(graph, inputs)
    teacher_walk = teacher.walk(batch)

    def call(node: Node, live: Mapping[str, Any]) -> tuple:
        outputs = graph.call(node, live)
        _, wanted = next(teacher_walk)
        layer = graph.layer_of(node)
        if layout_of(layer) is None:
            return outputs
        if calls[node.layer] > 1:
            kept[node.layer] = "it is shared by several calls, whose inputs differ"
            return outputs
        difference = outputs[0] - wanted[node.output]
        shift = tf.reduce_mean(difference, axis=list(range(len(difference.shape) - 1)))
        bias, moved = layer.weight("bias"), np.asarray(shift, np.float64)
        corrected.layers[node.layer] = with_bias(
            layer, graph.specs[node.inputs[0]].shape, -moved if bias is None else bias - moved
        )
        return (outputs[0] - shift,)

    for _ in graph.walk(batch, call):
        pass
    return corrected, kept
