"""Moves high biases through a ReLU into the next layer, so that they no longer widen the range of the activation.

c = max(0, beta - 3 sd)                       per channel; beta, sd: mean and deviation of the BatchNorm's output
beta' = beta - c,    b_next' = b_next + W_next c
so that relu(y - c) + c == relu(y) wherever y >= c, which for a normal y is all but 0.13 % of the values.
                                                                            (Nagel et al. 2019, section 4.1.3)

Nothing is moved if the next layer pads with zeros, because the constant would be missing at the border.
"""

from dataclasses import dataclass

import keras
import numpy as np

from tfdatafree.canonical.separate import separate
from tfdatafree.model.batchnorm import is_batchnorm, on_channels, output_moments, with_bias
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import find_layout, kernel_of, mean_response
from tfdatafree.model.operations import RELU, rectifier_of
from tfdatafree.model.rewrite import Rewrite

DEVIATIONS = 3.0


@dataclass(frozen=True)
class Absorbed:
    """Result of `absorb_bias`.

    Attributes:
        moved: BatchNorm -> number of its channels whose bias moved.
        kept: BatchNorm with high biases -> why they stayed.
    """

    model: keras.Model
    moved: dict[str, int]
    kept: dict[str, str]


def absorb_bias(model: keras.Model) -> Absorbed:
    """A model with about the same outputs, whose high BatchNorm biases have moved into the next layers.

    Args:
        model: A Functional or Sequential model with its BatchNorms; it is not changed.
    """
    unfolded = separate(Graph.from_keras(model)).graph
    absorbed, excess = absorb_biases(unfolded), high_biases(unfolded)
    moved = {name: int(np.count_nonzero(excess[name])) for name in absorbed.notes}
    return Absorbed(absorbed.graph.to_keras(), moved, dict(absorbed.kept))


def high_biases(graph: Graph) -> dict[str, np.ndarray]:
    """BatchNorm node -> c of each channel, (channels,), for each BatchNorm where any c is not 0."""
    biases = {}
    for node in graph.nodes:
        if is_batchnorm(graph.layer_of(node)):
            mean, sd = output_moments(graph.layer_of(node))
            high = np.maximum(mean - DEVIATIONS * sd, 0.0)
            if high.any():
                biases[node.name] = high
    return biases


def absorb_biases(graph: Graph) -> Rewrite:
    """`absorb_bias` on a separated graph with its BatchNorms. `notes` and `kept` have the names of BatchNorms."""
    graph, notes, reasons = graph.copy(), {}, {}
    for name, high in high_biases(graph).items():
        node = graph.node(name)
        reason, consumers = _receivers(graph, node)
        if reason:
            reasons[name] = reason
            continue
        mean, _ = output_moments(graph.layer_of(node))
        graph.layers[node.layer] = graph.layer_of(node).with_weights(beta=mean - high)
        for consumer in consumers:
            layer = graph.layer_of(consumer)
            added = mean_response(layer, kernel_of(layer), high)
            bias = layer.weight("bias")
            shape = graph.specs[consumer.inputs[0]].shape
            graph.layers[consumer.layer] = with_bias(layer, shape, added if bias is None else bias + added)
        notes[name] = f"high biases of {np.count_nonzero(high)} channel(s) moved into the next layer"
    return Rewrite(graph=graph, kept=reasons, notes=notes)


def _receivers(graph: Graph, node: Node) -> tuple[str | None, list[Node]]:
    """(why the bias of this BatchNorm stays, or None; the layers that take it over)."""
    calls, readers = graph.calls(), graph.consumers()
    if calls[node.layer] > 1 or graph.layer_of(node).weight("beta") is None or not on_channels(graph, node):
        return "it is shared, has no bias, or normalizes another axis than the last", []
    following = readers[node.output]
    if len(following) != 1 or node.output in graph.outputs or rectifier_of(graph.operation_of(following[0])) != RELU:
        return "it is not followed by one ReLU alone", []
    activated = following[0].output
    if activated in graph.outputs or not readers[activated]:
        return f"'{following[0].name}' is itself an output of the model", []
    for consumer in readers[activated]:
        layer = graph.layer_of(consumer)
        layout = find_layout(layer)
        if layout is None or layout.kind == "transpose" or calls[consumer.layer] > 1:
            return f"'{consumer.name}' ({layer.class_name}) cannot take it over", []
        if layout.kind != "dense" and max(layer.operation.kernel_size) > 1 and layer.operation.padding != "valid":
            return f"'{consumer.name}' pads with zeros", []
    return None, readers[activated]
