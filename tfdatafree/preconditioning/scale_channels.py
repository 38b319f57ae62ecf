"""Moves a scale per channel from the layers that write a tensor to the layers that read it.

Layers A (one, or several that Add joins) feed layers B. Only positively homogeneous operations stand between them, which are
those with f(s x) = s f(x) for s > 0. Then for any s_c > 0 per channel c

    A_c <- s_c A_c,   bias_A_c <- s_c bias_A_c,   B_c <- B_c / s_c

so that the outputs of every B are what they were, for every input. This module finds such layers and scales them. Others choose
s_c: `equalize.py` by kernels, `level.py` by the largest values of channels, `outliers.py` by single large weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import keras
import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import (
    find_layout,
    from_output_last,
    kernel_of,
    layout_of,
    output_last,
    scale_inputs,
    with_kernel,
)
from tfdatafree.model.layer import Layer, new_layer
from tfdatafree.model.node import Node
from tfdatafree.model.operations import operation_of, rectifier_of
from tfdatafree.model.rewrite import Rewrite, Scales
from tfdatafree.preconditioning.caps import Caps, apply_scales, find_caps


@dataclass(frozen=True)
class Group:
    """Layers that write, and layers that read, tensors with one common scale per channel.

    Attributes:
        caps: Capped activations between them, which may be scaled across (`caps.py`).
    """

    producers: tuple[Node, ...]
    consumers: tuple[Node, ...]
    caps: tuple[Node, ...] = ()

    @property
    def name(self) -> str:
        """Name of the first layer that writes."""
        return self.producers[0].name


def find_groups(graph: Graph, crossed: Caps | None = None) -> tuple[list[Group], dict[str, str]]:
    """The groups of a separated, folded graph, and {layer whose channels cannot be scaled: why}.

    Args:
        crossed: Caps that scales may cross; None: none.
    """
    crossed = crossed or Caps({}, {})
    group_of = {tensor: tensor for tensor in graph.specs}
    blocked: dict[str, str] = {}

    def root(tensor: str) -> str:
        while group_of[tensor] != tensor:
            tensor = group_of[tensor]
        return tensor

    for node in graph.nodes:
        layer = graph.layer_of(node)
        if find_layout(layer) is not None:
            continue
        if node.name in crossed.bounds or _joins(graph, node):
            for tensor in node.inputs:
                group_of[root(tensor)] = root(node.output)
        else:
            reason = f"'{node.name}' ({layer.class_name}) does not scale with its input"
            reason = crossed.reasons.get(node.name, reason)
            for tensor in (*node.inputs, *node.outputs):
                blocked.setdefault(tensor, reason)
    for tensor in graph.inputs:
        blocked.setdefault(tensor, "it holds the model's input")
    for tensor in graph.outputs:
        blocked.setdefault(tensor, "it holds an output of the model")
    return _collect(graph, root, blocked, crossed)


def _collect(graph: Graph, root, blocked: dict[str, str], crossed: Caps) -> tuple[list[Group], dict[str, str]]:
    calls = graph.calls()
    producers: dict[str, list[Node]] = {}
    consumers: dict[str, list[Node]] = {}
    caps: dict[str, list[Node]] = {}
    reasons: dict[str, str] = {}
    for tensor, reason in blocked.items():
        reasons.setdefault(root(tensor), reason)
    for node in graph.nodes:
        layer = graph.layer_of(node)
        if node.name in crossed.bounds:
            caps.setdefault(root(node.output), []).append(node)
        if find_layout(layer) is None:
            continue
        producers.setdefault(root(node.output), []).append(node)
        consumers.setdefault(root(node.inputs[0]), []).append(node)
        refused = None
        if calls[node.layer] > 1:
            refused = f"'{node.layer}' is shared by several calls"
        elif getattr(layer.operation, "groups", 1) > 1:
            refused = f"'{node.name}' is a grouped convolution"
        elif layout_of(layer).kind == "depthwise" and kernel_of(layer).shape[-1] > 1:
            refused = f"'{node.name}' has a depth multiplier"
        if refused:
            reasons.setdefault(root(node.output), refused)
            reasons.setdefault(root(node.inputs[0]), refused)
    groups, layer_reasons = [], {}
    for name, writers in producers.items():
        refusal = reasons.get(name) or (None if name in consumers else "no layer with weights reads it")
        if refusal:
            layer_reasons.update((node.name, refusal) for node in writers)
        else:
            groups.append(Group(tuple(writers), tuple(consumers[name]), tuple(caps.get(name, ()))))
    return groups, layer_reasons


def _joins(graph: Graph, node: Node) -> bool:
    """Whether the inputs and the output of the node can be scaled together, by one positive scale per channel."""
    channels = {graph.specs[tensor].shape[-1] for tensor in (*node.inputs, *node.outputs)}
    if len(channels) != 1:
        return False
    layer = graph.layer_of(node)
    rectifier, known = rectifier_of(layer.operation), operation_of(layer)
    if rectifier is not None:
        return rectifier.homogeneous
    # An operation of keras.ops may have a constant for its second operand.
    on_tensors = isinstance(layer.operation, keras.layers.Layer) or len(node.inputs) == 2
    return known.homogeneous and (known.channels != "joined" or on_tensors)


def scale_group(graph: Graph, group: Group, scale: np.ndarray) -> None:
    """Multiplies the channels between the layers of `group` by `scale` (channels,), in place."""
    for node in group.producers:
        rank = len(graph.specs[node.output].shape)
        graph.layers[node.layer] = _scale_outputs(graph.layer_of(node), scale, rank)
    for node in group.consumers:
        graph.layers[node.layer] = _divide_inputs(graph.layer_of(node), scale)


def scale_folded(folded: Graph, scales: Scales) -> Graph:
    """A folded graph with the same function, and with channels multiplied by `scales`, which were found on another graph."""
    graph = folded.copy()
    for group in find_groups(folded)[0]:
        if group.name in scales:
            scale_group(graph, group, scales[group.name])
    return graph


def scale_unfolded(unfolded: Graph, groups: Iterable[Group], scales: Scales) -> Rewrite:
    """`scale_group` on a graph that still has its BatchNorms; the function stays. Its `scales` are those of the scaled groups.

    A channel's scale goes into gamma and beta of the BatchNorm that writes it. The statistics that later stages read there
    are thus those of the scaled channel.

    Args:
        groups: Of the folded graph.
        scales: Name of a group -> (channels,).
    """
    graph, done, reasons = unfolded.copy(), {}, {}
    for group in groups:
        scale = scales[group.name]
        keys = [_writer(graph, node) for node in group.producers]
        writers = [key for key in keys if key is not None]
        if len(writers) < len(keys) or not all(_reads_alike(unfolded, node) for node in group.consumers):
            reason = "between its layers stands a BatchNorm that does not fold into the layer before it"
            reasons.update((node.name, reason) for node in group.producers)
            continue
        for key in writers:
            rank = next(len(graph.specs[node.output].shape) for node in graph.nodes if node.layer == key)
            graph.layers[key] = _scale_outputs(graph.layers[key], scale, rank)
        for node in group.consumers:
            graph.layers[node.layer] = _divide_inputs(graph.layers[node.layer], scale)
        done[group.name] = scale
    return Rewrite(graph=graph, kept=reasons, scales=done)


def scale_alike(unfolded: Graph, scales: Scales) -> Rewrite:
    """Scales another copy of a network by `scales`, so that the tensors of both copies compare channel by channel.

    The function of the copy stays: its caps are scaled with their channels.

    Args:
        unfolded: A separated graph, with its BatchNorms or without.
        scales: Name of a group -> (channels,); after several scalings their product.
    """
    folded = fold(unfolded).graph
    groups = [
        group
        for group in find_groups(folded, find_caps(folded, "channel", {}))[0]
        if scales.get(group.name, np.ones(0)).shape == (unfolded.specs[group.producers[0].output].shape[-1],)
    ]
    scaled = scale_unfolded(unfolded, groups, scales)
    scale_caps(scaled, groups, "channel")
    return scaled


def scale_caps(scaled: Rewrite, groups: Iterable[Group], mode: str) -> None:
    """Adapts the caps between the groups that `scale_unfolded` scaled, in place."""
    for group in groups:
        for cap in group.caps if group.name in scaled.scales else ():
            apply_scales(scaled.graph, scaled.graph.node(cap.name), mode, scaled.scales[group.name])


def _has_kernel(graph: Graph, node: Node) -> bool:
    return node.layer in graph.layers and find_layout(graph.layers[node.layer]) is not None


def _reads_alike(unfolded: Graph, node: Node) -> bool:
    """Whether `node` of the folded graph has a kernel and reads the same tensor in the unfolded graph, too."""
    same = any(other.name == node.name and other.inputs == node.inputs for other in unfolded.nodes)
    return same and _has_kernel(unfolded, node)


def _writer(unfolded: Graph, node: Node) -> str | None:
    """Key of the layer of the unfolded graph that writes what `node` of the folded graph writes.

    This is the layer itself or its BatchNorm. None: `node` has no kernel in the unfolded graph, or a shared one.
    """
    writer = unfolded.producers().get(node.output)
    if writer is None or not _has_kernel(unfolded, node) or unfolded.calls()[writer.layer] > 1:
        return None
    is_scalable = find_layout(unfolded.layer_of(writer)) is not None or is_batchnorm(unfolded.layer_of(writer))
    return writer.layer if is_scalable else None


def _divide_inputs(layer: Layer, scale: np.ndarray) -> Layer:
    """The layer that computes on channels multiplied by `scale` what `layer` computes on the channels themselves."""
    return with_kernel(layer, scale_inputs(kernel_of(layer).astype(np.float64), layout_of(layer), 1 / scale))


def _scale_outputs(layer: Layer, scale: np.ndarray, rank: int) -> Layer:
    """The layer with the channels of its output, of rank `rank`, multiplied by `scale`."""
    if is_batchnorm(layer):
        named = {variable: layer.required_weight(variable) for variable in ("moving_mean", "moving_variance")}
        gamma, beta = layer.weight("gamma"), layer.weight("beta")
        named["gamma"] = scale if gamma is None else gamma * scale
        named["beta"] = np.zeros_like(scale) if beta is None else beta * scale
        config = {**layer.operation.get_config(), "scale": True, "center": True}
        return new_layer(keras.layers.BatchNormalization, config, (*[None] * (rank - 1), len(scale)), **named)
    layout, kernel = layout_of(layer), kernel_of(layer)
    scaled = from_output_last(output_last(kernel.astype(np.float64), layout) * scale, kernel.shape, layout)
    layer = with_kernel(layer, scaled)
    bias = layer.weight("bias")
    return layer if bias is None else layer.with_weights(bias=bias * scale)
