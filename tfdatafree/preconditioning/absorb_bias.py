"""Moves high biases through a ReLU into the next layer, where they no longer widen the activation's range.

c = max(0, beta - 3 sd)                       per channel; beta, sd: mean and deviation of the BatchNorm's output
beta' = beta - c,    b_next' = b_next + W_next c
so that relu(y - c) + c == relu(y) wherever y >= c, which for a normal y is all but 0.13 % of the values.
                                                                            (Nagel et al. 2019, section 4.1.3)

Where the next layer pads with zeros the moved constant would be missing at the border: there nothing is moved.
"""

from dataclasses import dataclass

import keras
import numpy as np

from tfdatafree.canonical.separate import separate
from tfdatafree.model.batchnorm import is_batchnorm, on_channels, output_moments, with_bias
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import kernel_of, layout_of, mean_response

DEVIATIONS = 3.0


@dataclass(frozen=True)
class Absorbed:
    """Result of `absorb_bias`: the model, the channels moved by BatchNorm, and why others were left alone."""

    model: keras.Model
    moved: dict[str, int]
    kept: dict[str, str]


def absorb_bias(model: keras.Model) -> Absorbed:
    """A model with about the same outputs whose high BatchNorm biases have moved into the layers behind.

    Args:
        model: A Functional or Sequential model with its BatchNorms; it is not changed.
    """
    graph, moved, kept = absorb_biases(separate(Graph.from_keras(model)))
    return Absorbed(graph.to_keras(), moved, kept)


def absorb_biases(graph: Graph) -> tuple[Graph, dict[str, int], dict[str, str]]:
    """`absorb_bias` on an unfolded, separated graph: (graph, {BatchNorm: channels moved}, {BatchNorm: why not})."""
    graph, moved, kept = graph.copy(), {}, {}
    for name in [node.name for node in graph.nodes if is_batchnorm(graph.layer_of(node))]:
        node = graph.node(name)
        mean, sd = output_moments(graph.layer_of(node))
        high = np.maximum(mean - DEVIATIONS * sd, 0.0)
        if not high.any():
            continue
        reason, consumers = _receivers(graph, node)
        if reason:
            kept[name] = reason
            continue
        graph.layers[node.layer] = graph.layer_of(node).with_weights(beta=mean - high)
        for consumer in consumers:
            layer = graph.layer_of(consumer)
            added = mean_response(layer, kernel_of(layer), high)
            bias = layer.weight("bias")
            shape = graph.specs[consumer.inputs[0]].shape
            graph.layers[consumer.layer] = with_bias(layer, shape, added if bias is None else bias + added)
        moved[name] = int(np.count_nonzero(high))
    return graph, moved, kept


def _receivers(graph: Graph, node: Node) -> tuple[str | None, list[Node]]:
    """(why the bias of this BatchNorm stays, else None; the layers that take it over)."""
    calls, readers = graph.calls(), graph.consumers()
    if calls[node.layer] > 1 or graph.layer_of(node).weight("beta") is None or not on_channels(graph, node):
        return "it is shared, has no bias, or normalizes another axis than the last", []
    behind = readers[node.output]
    if len(behind) != 1 or node.output in graph.outputs or not _is_relu(graph, behind[0]):
        return "it is not followed by one ReLU alone", []
    activated = behind[0].output
    if activated in graph.outputs or not readers[activated]:
        return f"'{behind[0].name}' is itself an output of the model", []
    for consumer in readers[activated]:
        layer = graph.layer_of(consumer)
        layout = layout_of(layer)
        if layout is None or layout.kind == "transpose" or calls[consumer.layer] > 1:
            return f"'{consumer.name}' ({layer.class_name}) cannot take it over", []
        if layout.kind != "dense" and max(layer.operation.kernel_size) > 1 and layer.operation.padding != "valid":
            return f"'{consumer.name}' pads with zeros", []
    return None, readers[activated]


def _is_relu(graph: Graph, node: Node) -> bool:
    operation = graph.operation_of(node)
    if isinstance(operation, keras.layers.ReLU):
        return operation.max_value is None and not operation.threshold and not operation.negative_slope
    is_relu = isinstance(operation, keras.layers.Activation) and operation.activation is keras.activations.relu
    return is_relu or type(operation).__name__ == "Relu"
