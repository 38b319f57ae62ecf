"""Cross-layer equalization: moves scale between layers, channel by channel, without changing the function.

Layers A (one or several, joined by Add) feed layers B through tensors of channels c that only positively homogeneous
operations touch (f(s x) = s f(x) for s > 0). With r_A = max|A_c| over the rows that write channel c, r_B = max|B_c| over the
columns that read it,

    s_c = (r_B / r_A)^(power / 2),     A_c <- s_c A_c,   bias_A_c <- s_c bias_A_c,   B_c <- B_c / s_c

so that the outputs of every B are what they were, for every input. At power 1 both maxima become sqrt(r_A r_B), which is
s = sqrt(r_A r_B) / r_A of Horton et al. 2021, eq. 4-9 (there the printed indices are swapped) and Nagel et al. 2019, eq. 11; a
smaller power leaves the activations' own ranges more alike. Rounds are repeated until the mean of all s is within 1e-3 of 1.

ReLU6 and other caps are not homogeneous: scaling a channel moves its cap. Unless told how to go about it (`caps.py`), such
groups are left alone, and say so.
"""

from dataclasses import dataclass, field

import keras
import numpy as np

from tfdatafree.graph import Graph, Layer, Node, new_layer
from tfdatafree.linear import from_output_last, kernel_of, layout_of, output_last, scale_inputs, with_kernel
from tfdatafree.visitors.assumption_free import (
    LARGEST_SCALE,
    TOLERANCE,
    Buffers,
    equalize_assumption_free,
    insert_buffers,
    remove_buffers,
)
from tfdatafree.visitors.caps import CAP_PROBABILITY, Caps, apply_scales, batchnorm_moments, find_caps
from tfdatafree.visitors.fold_batchnorm import fold, is_batchnorm
from tfdatafree.visitors.separate import separate

_MOST_ROUNDS = 50
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
class Equalized:
    """Result of `equalize`: the model, how far the scales went, and what could not be equalized.

    Attributes:
        rounds: Rounds until the mean of the scales was within TOLERANCE of 1.
        scales: Group (named after its first producing layer) -> (channels,) product of its scales.
        kept: Layer -> why its outputs were left alone.
        buffers: With `assumption_free`, layer -> (v_i, v_o): what its inputs and its outputs are multiplied by.
    """

    model: keras.Model
    rounds: int
    scales: dict[str, np.ndarray]
    kept: dict[str, str]
    buffers: Buffers = field(default_factory=dict)

    def folded(self) -> keras.Model:
        """`model`, with the weights that it holds now, with its buffers multiplied into kernels and biases."""
        return remove_buffers(Graph.from_keras(self.model), self.buffers).to_keras()


@dataclass(frozen=True)
class Group:
    """Layers that write and layers that read tensors with one common scale per channel, and the caps between them."""

    producers: tuple[Node, ...]
    consumers: tuple[Node, ...]
    caps: tuple[Node, ...] = ()


def equalize(
    model: keras.Model,
    *,
    power: float = 1.0,
    caps: str = "keep",
    cap_probability: float = CAP_PROBABILITY,
    assumption_free: bool = False,
) -> Equalized:
    """A model with the same outputs whose kernels are equalized across layers (BatchNorm folded first).

    Args:
        model: A Functional or Sequential model; it is not changed.
        power: Part of the way to equal maxima, 0 < power <= 1.
        caps: What becomes of ReLU6 and other caps: "keep" does not equalize across them; "channel" gives each channel a
            cap of its own (exact; the model then holds `ChannelCap` layers); "limit" keeps scales so small, and "drop"
            takes the caps out only where, BatchNorm statistics say, they are next to never reached. With these two the
            outputs are only nearly the same: compare them.
        cap_probability: With "limit" and "drop", what next to never means, per channel and value.
        assumption_free: Equalize across any activation, with buffers that keep every layer's output: the kernels can be
            pruned or rounded as they stand in the model, and `Equalized.folded` then takes the buffers out.
    """
    unfolded = separate(Graph.from_keras(model))
    graph, _ = fold(unfolded)
    if assumption_free:
        if power != 1 or caps != "keep":
            raise ValueError(
                f"power is {power}, caps is {caps!r}; assumption_free equalization goes the whole way and keeps every "
                'activation, leave power at 1 and caps at "keep".'
            )
        graph, buffers, rounds, kept = equalize_assumption_free(graph)
        return Equalized(insert_buffers(graph, buffers).to_keras(), rounds, {}, kept, buffers)
    crossed = find_caps(graph, caps, batchnorm_moments(unfolded), cap_probability)
    graph, rounds, scales, kept = equalize_graph(graph, power=power, caps=caps, crossed=crossed)
    return Equalized(graph.to_keras(), rounds, scales, kept)


def equalize_graph(
    graph: Graph, *, power: float = 1.0, caps: str = "keep", crossed: Caps | None = None
) -> tuple[Graph, int, dict[str, np.ndarray], dict[str, str]]:
    """`equalize` on a folded, separated graph: (graph, rounds, scales, kept).

    Args:
        crossed: What `find_caps` says of the graph's caps; None leaves all of them alone.
    """
    if not 0 < power <= 1:
        raise ValueError(f"power is {power}; choose a number above 0 and at most 1.")
    groups, kept = find_groups(graph, crossed)
    graph = graph.copy()
    scales: dict[str, np.ndarray] = {}
    # A part of the way per round would, over the rounds, become the whole way: partial equalization is one round.
    rounds = 0
    for rounds in range(1, (_MOST_ROUNDS if power == 1 else 1) + 1):
        means = []
        for group in groups:
            name = group.producers[0].name
            before = scales.get(name, 1.0)
            after = before * _scale(graph, group, power)
            for cap in group.caps:
                after = np.clip(after, *crossed.bounds[cap.name])
            scales[name] = after
            _apply(graph, group, after / before)
            means.append((after / before).mean())
        if not means or abs(np.mean(means) - 1) < TOLERANCE:
            break
    for group in groups:
        for cap in group.caps:
            apply_scales(graph, cap, caps, scales[group.producers[0].name])
    return graph, rounds, scales, kept


def find_groups(graph: Graph, crossed: Caps | None = None) -> tuple[list[Group], dict[str, str]]:
    """Groups that can be equalized, and {producing layer: why its group cannot}."""
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


def _row_maxima(graph: Graph, node: Node) -> np.ndarray:
    layer = graph.layer_of(node)
    return np.abs(output_last(kernel_of(layer), layout_of(layer))).max(axis=0).astype(np.float64)


def _column_maxima(graph: Graph, node: Node) -> np.ndarray:
    layer = graph.layer_of(node)
    kernel, kind = np.abs(kernel_of(layer)).astype(np.float64), layout_of(layer).kind
    axis = kernel.ndim - 1 if kind == "transpose" else kernel.ndim - 2
    return kernel.max(axis=tuple(other for other in range(kernel.ndim) if other != axis))


def _scale(graph: Graph, group: Group, power: float) -> np.ndarray:
    written = np.max([_row_maxima(graph, node) for node in group.producers], axis=0)
    read = np.max([_column_maxima(graph, node) for node in group.consumers], axis=0)
    # A channel without weights on one side has nothing to equalize.
    alive = (written > 0) & (read > 0)
    ratio = np.where(alive, read, 1.0) / np.where(alive, written, 1.0)
    scale = np.power(ratio, power / 2)
    return np.where((scale > 1 / LARGEST_SCALE) & (scale < LARGEST_SCALE), scale, 1.0)


def _apply(graph: Graph, group: Group, scale: np.ndarray) -> None:
    for node in group.producers:
        rank = len(graph.specs[node.output].shape)
        graph.layers[node.layer] = _scale_outputs(graph.layer_of(node), scale, rank)
    for node in group.consumers:
        layer = graph.layer_of(node)
        kernel = kernel_of(layer).astype(np.float64)
        graph.layers[node.layer] = with_kernel(layer, scale_inputs(kernel, layout_of(layer), 1 / scale))


def equalize_unfolded(unfolded: Graph, *, power: float = 1.0, caps: str = "keep") -> tuple[Graph, dict[str, str]]:
    """Equalizes a graph that still has its BatchNorms: (the same function, {layer: why it was left alone}).

    The scales are those of the folded graph. A channel's scale goes into the gamma and beta of the BatchNorm that writes
    it, so that the statistics which later stages read there are those of the scaled channel.
    """
    folded, _ = fold(unfolded)
    crossed = find_caps(folded, caps, batchnorm_moments(unfolded))
    _, _, scales, kept = equalize_graph(folded, power=power, caps=caps, crossed=crossed)
    groups, _ = find_groups(folded, crossed)
    graph = unfolded.copy()
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
            layer = graph.layers[node.layer]
            kernel = kernel_of(layer).astype(np.float64)
            graph.layers[node.layer] = with_kernel(layer, scale_inputs(kernel, layout_of(layer), 1 / scale))
        for cap in group.caps:
            apply_scales(graph, graph.node(cap.name), caps, scale)
    return graph, kept


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
