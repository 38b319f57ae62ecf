"""Scale per channel, moved from the layers that write a tensor to the layers that read it: where it may, and doing it.

Layers A (one or several, joined by Add) feed layers B through tensors of channels c that only positively homogeneous
operations touch (f(s x) = s f(x) for s > 0). Then for any s_c > 0

    A_c <- s_c A_c,   bias_A_c <- s_c bias_A_c,   B_c <- B_c / s_c

leaves the outputs of every B what they were, for every input. Which s_c are worth it is for others to say: `equalize.py` looks
at kernels, `level.py` at how far channels reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph, Layer, Node, new_layer
from tfdatafree.model.kernels import from_output_last, kernel_of, layout_of, output_last, scale_inputs, with_kernel
from tfdatafree.preconditioning.caps import Caps, apply_scales, find_caps

# Operations with one input that scale with it, channel by channel.
_HOMOGENEOUS = (
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.UpSampling1D,
    keras.layers.UpSampling2D,
)


@dataclass(frozen=True)
class Group:
    """Layers that write and layers that read tensors with one common scale per channel, and the caps between them."""

    producers: tuple[Node, ...]
    consumers: tuple[Node, ...]
    caps: tuple[Node, ...] = ()


def find_groups(graph: Graph, crossed: Caps | None = None) -> tuple[list[Group], dict[str, str]]:
    """Groups between which scale may move, and {producing layer: why it may not}."""
    crossed = crossed or Caps({}, {})
    group_of = {tensor: tensor for tensor in graph.specs}
    blocked: dict[str, str] = {}

    def root(tensor: str) -> str:
        while group_of[tensor] != tensor:
            tensor = group_of[tensor]
        return tensor

    for node in graph.nodes:
        layer = graph.layer_of(node)
        if layout_of(layer) is not None:
            continue
        if node.name in crossed.bounds or _joins(graph, node):
            for tensor in node.inputs:
                group_of[root(tensor)] = root(node.output)
        else:
            reason = f"'{node.name}' ({layer.class_name}) does not scale with its input"
            reason = crossed.kept.get(node.name, reason)
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
        if layout_of(layer) is None:
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
    groups, kept = [], {}
    for name, writers in producers.items():
        reason = reasons.get(name) or (None if name in consumers else "no layer with weights reads it")
        if reason:
            kept.update((node.name, reason) for node in writers)
        else:
            groups.append(Group(tuple(writers), tuple(consumers[name]), tuple(caps.get(name, ()))))
    return groups, kept


def _joins(graph: Graph, node: Node) -> bool:
    """Whether the node's inputs and output must share one positive scale per channel, and may."""
    operation = graph.operation_of(node)
    channels = {graph.specs[tensor].shape[-1] for tensor in (*node.inputs, *node.outputs)}
    if len(channels) != 1:
        return False
    if isinstance(operation, (keras.layers.Add, keras.layers.Average, keras.layers.Maximum)):
        return True
    if isinstance(operation, keras.layers.ReLU):
        return operation.max_value is None and not operation.threshold
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in (keras.activations.relu, keras.activations.leaky_relu)
    if isinstance(operation, _HOMOGENEOUS):
        return True
    return type(operation).__name__ in ("Relu", "LeakyRelu") or (
        type(operation).__name__ == "Add" and len(node.inputs) == 2
    )


def scale_group(graph: Graph, group: Group, scale: np.ndarray) -> None:
    """Scales the channels between the layers of `group`, in place; scale: (channels,)."""
    for node in group.producers:
        rank = len(graph.specs[node.output].shape)
        graph.layers[node.layer] = _scale_outputs(graph.layer_of(node), scale, rank)
    for node in group.consumers:
        graph.layers[node.layer] = _divide_inputs(graph.layer_of(node), scale)


def scale_unfolded(
    unfolded: Graph, groups: list[Group], scales: Mapping[str, np.ndarray]
) -> tuple[Graph, list[Group], dict[str, str]]:
    """`scale_group` on a graph that still has its BatchNorms: (the same function, groups scaled, {layer: why not}).

    A channel's scale goes into the gamma and beta of the BatchNorm that writes it, so that the statistics which later stages
    read there are those of the scaled channel.

    Args:
        groups: Those of the folded graph.
        scales: Group (named after its first producer) -> (channels,).
    """
    graph, done, kept = unfolded.copy(), [], {}
    for group in groups:
        scale = scales[group.producers[0].name]
        writers = [_writer(graph, node) for node in group.producers]
        if None in writers or not all(_reads_alike(unfolded, node) for node in group.consumers):
            reason = "a BatchNorm that folds into the layer behind it, or into none, stands between"
            kept.update((node.name, reason) for node in group.producers)
            continue
        for key in writers:
            rank = next(len(graph.specs[node.output].shape) for node in graph.nodes if node.layer == key)
            graph.layers[key] = _scale_outputs(graph.layers[key], scale, rank)
        for node in group.consumers:
            graph.layers[node.layer] = _divide_inputs(graph.layers[node.layer], scale)
        done.append(group)
    return graph, done, kept


def scale_alike(unfolded: Graph, scales: Mapping[str, np.ndarray]) -> Graph:
    """Another copy of a network whose channels were scaled, scaled alike: so that its tensors compare, channel by channel.

    Its function stays what it is: caps move with their channels.

    Args:
        unfolded: A separated graph, with its BatchNorms or without.
        scales: Group (named after its first producer) -> (channels,), of one scaling after another their product.
    """
    folded = fold(unfolded)[0]
    groups = [
        group
        for group in find_groups(folded, find_caps(folded, "channel", {}))[0]
        if scales.get(group.producers[0].name, np.ones(0)).shape
        == (unfolded.specs[group.producers[0].output].shape[-1],)
    ]
    graph, done, _ = scale_unfolded(unfolded, groups, scales)
    for group in done:
        for cap in group.caps:
            apply_scales(graph, graph.node(cap.name), "channel", scales[group.producers[0].name])
    return graph


def multiplied(first: Mapping[str, np.ndarray], then: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scales of channels after both: groups that both scale are the same layers."""
    return {**first, **{name: first.get(name, 1.0) * scale for name, scale in then.items()}}


def _has_kernel(graph: Graph, node: Node) -> bool:
    return node.layer in graph.layers and layout_of(graph.layers[node.layer]) is not None


def _reads_alike(unfolded: Graph, node: Node) -> bool:
    """Whether the folded `node` reads the same tensor in the unfolded graph, with a kernel."""
    same = any(other.name == node.name and other.inputs == node.inputs for other in unfolded.nodes)
    return same and _has_kernel(unfolded, node)


def _writer(unfolded: Graph, node: Node) -> str | None:
    """Key of the layer that writes, with its BatchNorm, what the folded `node` writes; None if its kernel is no kernel here."""
    writer = unfolded.producers().get(node.output)
    if writer is None or not _has_kernel(unfolded, node) or unfolded.calls()[writer.layer] > 1:
        return None
    is_scalable = layout_of(unfolded.layer_of(writer)) is not None or is_batchnorm(unfolded.layer_of(writer))
    return writer.layer if is_scalable else None


def _divide_inputs(layer: Layer, scale: np.ndarray) -> Layer:
    """The layer that acts on channels multiplied by `scale` as `layer` acts on the channels as they were."""
    return with_kernel(layer, scale_inputs(kernel_of(layer).astype(np.float64), layout_of(layer), 1 / scale))


def _scale_outputs(layer: Layer, scale: np.ndarray, rank: int) -> Layer:
    """The layer with the channels of its output, of rank `rank`, multiplied by `scale`."""
    if is_batchnorm(layer):
        named = {variable: layer.weight(variable) for variable in ("moving_mean", "moving_variance")}
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
