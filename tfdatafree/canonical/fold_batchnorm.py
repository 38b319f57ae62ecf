"""Folds each BatchNormalization into the layer that feeds it, or into the one it feeds.

g  = gamma / sqrt(var + eps)                one per channel
W' = W * g,   b' = (b - mean) * g + beta
so that layer(x, W') + b' == bn(layer(x, W) + b) for every x.        (Markus 2018; Horton et al. 2021, eq. 1)

Before a layer, with t = beta - mean * g:   W' = g * W,   b' = b + sum(t * W)
so that layer'(x) == layer(bn(x)), wherever no padding makes zeros that the BatchNorm did not see.

A BatchNorm that can go into neither becomes an exact scale and shift. On a feature map this is a 1x1 depthwise convolution,
which integer runtimes quantize per channel; elsewhere it is a Rescaling layer.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from tfdatafree.canonical.separate import separate
from tfdatafree.model.batchnorm import is_batchnorm, on_channels, scale_and_shift, with_bias
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import (
    find_layout,
    from_output_last,
    kernel_of,
    layout_of,
    mean_response,
    output_last,
    scale_inputs,
    with_kernel,
)
from tfdatafree.model.layer import Layer, new_layer, weightless
from tfdatafree.model.node import Node
from tfdatafree.model.rewrite import Rewrite, apply_passes


@dataclass(frozen=True)
class Folded:
    """Result of `fold_batchnorm`: the model, and why each BatchNorm that is in no layer now could not be folded."""

    model: keras.Model
    kept: dict[str, str]


def fold_batchnorm(model: keras.Model) -> Folded:
    """A model with the same outputs (within float rounding) and no BatchNormalization.

    Args:
        model: A Functional or Sequential model; it is not changed.

    Raises:
        UnsupportedModelError: The model is subclassed or was never built.
    """
    folded = apply_passes(Graph.from_keras(model), (separate, fold))
    return Folded(folded.graph.to_keras(), dict(folded.kept))


def fold(graph: Graph, chosen: Callable[[Layer], bool] = is_batchnorm) -> Rewrite:
    """Folds every BatchNorm of a separated graph. `kept`: BatchNorm node -> why it was not folded.

    A folded layer writes the tensor that its BatchNorm wrote. What is known of a tensor by its name stays valid.

    Args:
        chosen: Which BatchNorms are folded.
    """
    graph = graph.copy()
    kept: dict[str, str] = {}
    for node in [node for node in graph.nodes if chosen(graph.layer_of(node))]:
        if node not in graph.nodes:
            continue  # was folded with another call of the same layers
        before = _refuse_before(graph, node)
        if before is None:
            _fold_into_producer(graph, node)
            continue
        after = _refuse_after(graph, node)
        if after is None:
            _fold_into_consumer(graph, node)
            continue
        kept[node.name] = f"{before}; {after}"
        _make_scale_and_shift(graph, node)
    return Rewrite(graph=graph, kept=kept)


def _refuse_before(graph: Graph, node: Node) -> str | None:
    """Why this BatchNorm cannot go into the layer before it; None if it can."""
    source = node.inputs[0]
    producer = graph.producers().get(source)
    if producer is None:
        return "it stands at the model's input"
    layer = graph.layer_of(producer)
    if find_layout(layer) is None:
        return f"'{producer.name}' ({layer.class_name}) before it has no weights to fold into"
    if not on_channels(graph, node):
        return "it normalizes another axis than the last"
    if source in graph.outputs:
        return f"'{producer.name}' is itself an output of the model"
    if len(graph.consumers()[source]) > 1:
        return f"'{producer.name}' also feeds other layers"
    if _calls_of_both(graph, node) is None:
        return f"'{producer.layer}' is shared by several calls"
    return None


def _calls_of_both(graph: Graph, node: Node) -> list[tuple[Node, Node]] | None:
    """(call of the layer before this BatchNorm, call of the BatchNorm) for all calls of that layer.

    None where one of its outputs is read by anything else than one call of the BatchNorm.
    """
    readers, pairs = graph.consumers(), []
    for caller in [other for other in graph.nodes if other.layer == graph.producers()[node.inputs[0]].layer]:
        found = readers[caller.output]
        if caller.output in graph.outputs or len(found) != 1 or found[0].layer != node.layer:
            return None
        pairs.append((caller, found[0]))
    return pairs


def _refuse_after(graph: Graph, node: Node) -> str | None:
    """Why this BatchNorm cannot go into the layer after it; None if it can."""
    consumers = graph.consumers()[node.output]
    if node.output in graph.outputs:
        return "its own output is an output of the model"
    if len(consumers) != 1:
        return f"it feeds {len(consumers)} layers"
    consumer = consumers[0]
    layer = graph.layer_of(consumer)
    layout = find_layout(layer)
    if layout is None:
        return f"'{consumer.name}' ({layer.class_name}) after it has no weights to fold into"
    if not on_channels(graph, node):
        return "it normalizes another axis than the last"
    if graph.calls()[consumer.layer] > 1:
        return f"'{consumer.layer}' is shared by several calls"
    if layout.kind == "transpose":
        return f"'{consumer.name}' (transposed convolution) sees its shift unevenly"
    if getattr(layer.operation, "groups", 1) > 1:
        return f"'{consumer.name}' is grouped"
    _, shift = scale_and_shift(graph.layer_of(node))
    pointwise = layout.kind == "dense" or set(layer.operation.kernel_size) == {1}
    if np.any(shift) and not pointwise and layer.operation.padding != "valid":
        return f"'{consumer.name}' pads with zeros, which the shift would have moved"
    return None


def _fold_into_producer(graph: Graph, node: Node) -> None:
    producer = graph.producers()[node.inputs[0]]
    layer = graph.layer_of(producer)
    layout = layout_of(layer)
    g, t = scale_and_shift(graph.layer_of(node))
    kernel = kernel_of(layer)
    scaled = from_output_last(output_last(kernel.astype(np.float64), layout) * g, kernel.shape, layout)
    bias = layer.weight("bias")
    bias = t if bias is None else bias * g + t
    graph.layers[producer.layer] = with_bias(with_kernel(layer, scaled), graph.specs[producer.inputs[0]].shape, bias)
    for caller, batchnorm in _calls_of_both(graph, node) or ():
        graph.replace(batchnorm)
        graph.rename_output(caller, batchnorm.output)
        del graph.specs[batchnorm.inputs[0]]


def _fold_into_consumer(graph: Graph, node: Node) -> None:
    consumer = graph.consumers()[node.output][0]
    layer = graph.layer_of(consumer)
    layout = layout_of(layer)
    g, t = scale_and_shift(graph.layer_of(node))
    kernel = kernel_of(layer).astype(np.float64)
    moved = mean_response(layer, kernel, t)
    bias = layer.weight("bias")
    bias = moved if bias is None else bias + moved
    scaled = with_kernel(layer, scale_inputs(kernel, layout, g))
    graph.layers[consumer.layer] = with_bias(scaled, graph.specs[consumer.inputs[0]].shape, bias)
    graph.redirect(node.output, node.inputs[0])
    graph.replace(node)
    del graph.specs[node.output]


def _make_scale_and_shift(graph: Graph, node: Node) -> None:
    g, t = scale_and_shift(graph.layer_of(node))
    shape = graph.specs[node.inputs[0]].shape
    # Another call of a shared BatchNorm may still be folded, and needs its statistics.
    key = node.layer if graph.calls()[node.layer] == 1 else graph.fresh_name(f"{node.layer}_scale")
    if len(shape) == 4 and on_channels(graph, node):
        config = {"kernel_size": 1, "use_bias": True, "name": key}
        kernel = g.reshape(1, 1, -1, 1)
        scaled = new_layer(keras.layers.DepthwiseConv2D, config, shape, kernel=kernel, bias=t)
    else:
        broadcast = [1] * len(shape)
        broadcast[graph.operation_of(node).axis] = -1
        scale, offset = (array.reshape(broadcast[1:]).astype(np.float32) for array in (g, t))
        scaled = weightless(keras.layers.Rescaling, scale, offset, name=key)
    graph.layers[key] = scaled
    graph.replace(node, dataclasses.replace(node, layer=key))
