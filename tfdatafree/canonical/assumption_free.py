"""Assumption-free cross-layer equalization: equalizes kernels across any activation, with buffers that undo it.

Each layer j gets a buffer on either side of its kernel (Horton et al. 2021, eq. 3):

    L_j(x) = (W_j (x * v_i) + b_j) * v_o            v_i: (inputs,), v_o: (outputs,), both 1 at first

Layer A feeds layer B: channel c of A is channel c' of B, with any activation between them. With r_A = max|A_c| over the weights
that write c, and r_B = max|B_c'| over those that read it,

    s_c = sqrt(r_A r_B) / r_A
    A_c <- A_c s_c,   b_A <- b_A s_c,   v_o of A <- v_o / s_c,   B_c' <- B_c' / s_c,   v_i of B <- v_i s_c        (eq. 4-9)

over all pairs, until the mean of all s_c of a round is within 1e-3 of 1, so that the output of *every* layer is what it was, for
every input, whatever stands between layers. (The indices printed in eq. 6, 7 and 9 are swapped.) Once the kernels are pruned or
rounded, the buffers are folded into them: W = v_o W_j v_i, b = v_o b_j.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import (
    find_layout,
    input_channels,
    kernel_of,
    largest_between_channels,
    layout_of,
    scale_inputs,
    scale_outputs,
    with_kernel,
)
from tfdatafree.model.layer import Layer, weightless
from tfdatafree.model.node import Node, Ref
from tfdatafree.model.operations import operation_of
from tfdatafree.model.rewrite import Rewrite

TOLERANCE = 1e-3
# In a deep network it takes many rounds until whole layers of different size are even.
_MOST_ROUNDS = 500
# A larger scale says that a channel is dead on one side; applying it would only ruin the other side.
LARGEST_SCALE = 1e3

Buffers = dict[str, tuple[np.ndarray, np.ndarray]]

_INPUT_SUFFIX, _OUTPUT_SUFFIX = "input_buffer", "output_buffer"


@dataclass(frozen=True)
class _Link:
    """Which channels of a tensor come from layer `writer`.

    Attributes:
        channels: For each channel of the tensor the channel of the writer, or -1 where it comes from another layer. None
            where it is not known.
        reason: Why it is not known.
    """

    writer: str
    channels: np.ndarray | None
    reason: str = ""


@dataclass(frozen=True)
class _Pair:
    """A layer that feeds another one, and for each channel that the reader reads the writer's channel, or -1."""

    writer: str
    reader: str
    channels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Buffered(Rewrite):
    """Equalized kernels, and what undoes it.

    The graph computes another function until the buffers are put around its layers (`insert_buffers`) or into them
    (`fold_buffers`). `kept` goes by "writer -> reader", or by "writer" where no layer with a kernel reads it.

    Attributes:
        buffers: Layer -> (v_i, v_o), for every layer with a kernel.
        rounds: How many there were.
    """

    buffers: Buffers
    rounds: int


def equalize_assumption_free(graph: Graph) -> Buffered:
    """Equalizes the kernels of a separated, folded graph."""
    pairs, kept = _find_pairs(graph)
    weighted = {key: layer for key, layer in graph.layers.items() if find_layout(layer) is not None}
    largest = {key: largest_between_channels(layer) for key, layer in weighted.items()}
    scales = {
        key: (np.ones(input_channels(layer)), np.ones(largest[key].shape[0] * largest[key].shape[2]))
        for key, layer in weighted.items()
    }
    rounds = 0
    for rounds in range(1, _MOST_ROUNDS + 1):
        shared = [_equalize_pair(pair, largest, scales) for pair in pairs]
        if not shared or abs(np.concatenate(shared).mean() - 1) < TOLERANCE:
            break
    graph = graph.copy()
    for key, layer in weighted.items():
        graph.layers[key] = _scaled(layer, *scales[key])
    buffers = {key: (1 / inputs, 1 / outputs) for key, (inputs, outputs) in scales.items()}
    return Buffered(graph=graph, kept=kept, buffers=buffers, rounds=rounds)


def fold_buffers(graph: Graph, buffers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Graph:
    """`graph` with buffers multiplied into kernels and biases. Each layer computes what it computed between its buffers.

    Args:
        buffers: Layer -> (v_i, v_o); other layers stay as they are.
    """
    graph = graph.copy()
    for key, (inputs, outputs) in buffers.items():
        graph.layers[key] = _scaled(graph.layers[key], inputs, outputs)
    return graph


def insert_buffers(graph: Graph, buffers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Graph:
    """`graph` with buffers as Rescaling layers before and after each layer. Buffers of ones are left out.

    Compression folds Rescaling layers into their neighbours, exactly, so that it undoes this by itself.
    """
    graph = graph.copy()
    for key, (inputs, outputs) in buffers.items():
        for name in [node.name for node in graph.nodes if node.layer == key]:
            if np.any(inputs != 1):
                _insert_before(graph, graph.node(name), inputs)
            if np.any(outputs != 1):
                _insert_after(graph, graph.node(name), outputs)
    return graph


def remove_buffers(graph: Graph, buffers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Graph:
    """`graph` without the layers that `insert_buffers` added, multiplied into the kernels as they are now."""
    graph = graph.copy()
    for node in list(graph.nodes):
        owner = next((k for k in buffers for s in (_INPUT_SUFFIX, _OUTPUT_SUFFIX) if node.layer == f"{k}_{s}"), None)
        if owner is not None and isinstance(graph.operation_of(node), keras.layers.Rescaling):
            node = graph.node(node.name)
            graph.redirect(node.output, node.inputs[0])
            graph.replace(node)
            del graph.specs[node.output]
    return fold_buffers(graph, buffers)


def _equalize_pair(
    pair: _Pair, largest: dict[str, np.ndarray], scales: dict[str, tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Equalizes one pair in `largest` and `scales`, in place. Returns the scale of each channel that the two share."""
    written = largest[pair.writer].max(axis=1).reshape(-1)
    columns = largest[pair.reader].max(axis=2).reshape(-1)
    shared = pair.channels >= 0
    read = np.zeros_like(written)
    np.maximum.at(read, pair.channels[shared], columns[shared])
    # A channel without weights on one side has nothing to equalize.
    alive = (written > 0) & (read > 0)
    scale = np.sqrt(np.where(alive, read, 1.0) / np.where(alive, written, 1.0))
    scale = np.where((scale > 1 / LARGEST_SCALE) & (scale < LARGEST_SCALE), scale, 1.0)
    inverse = np.where(shared, 1 / scale[pair.channels], 1.0)
    groups = len(largest[pair.writer])
    largest[pair.writer] *= scale.reshape(groups, 1, -1)
    largest[pair.reader] *= inverse.reshape(len(largest[pair.reader]), -1, 1)
    outputs, inputs = scales[pair.writer][1], scales[pair.reader][0]
    outputs *= scale
    inputs *= inverse
    return scale[np.unique(pair.channels[shared])]


def _scaled(layer: Layer, inputs: np.ndarray, outputs: np.ndarray) -> Layer:
    """The layer with its kernel multiplied by `inputs` along its input channels and by `outputs` along its output channels."""
    layout, kernel = layout_of(layer), kernel_of(layer).astype(np.float64)
    layer = with_kernel(layer, scale_outputs(scale_inputs(kernel, layout, inputs), layout, outputs))
    bias = layer.weight("bias")
    return layer if bias is None else layer.with_weights(bias=bias * outputs)


# Which layers feed which ----------------------------------------------------------------------------------------------


def _find_pairs(graph: Graph) -> tuple[list[_Pair], dict[str, str]]:
    """Pairs of layers, and {"writer -> reader", or a writer that no layer with a kernel reads: why it is no pair}."""
    links: dict[str, list[_Link]] = {tensor: [] for tensor in graph.inputs}
    pairs: dict[tuple, _Pair] = {}
    kept: dict[str, str] = {}
    writers: list[str] = []
    read: set[str] = set()
    for node in graph.nodes:
        layer = graph.layer_of(node)
        if find_layout(layer) is None:
            links.update({tensor: _pass_on(graph, node, tensor, links) for tensor in node.outputs})
            continue
        for link in links[node.inputs[0]]:
            read.add(link.writer)
            if link.channels is None:
                kept[f"{link.writer} -> {node.layer}"] = link.reason
            else:
                key = (link.writer, node.layer, link.channels.tobytes())
                pairs[key] = _Pair(link.writer, node.layer, link.channels)
        writers.append(node.layer)
        links[node.output] = [_Link(node.layer, np.arange(graph.specs[node.output].size(-1)))]
    kept |= {writer: "no layer with weights reads it" for writer in writers if writer not in read}
    return list(pairs.values()), kept


def _pass_on(graph: Graph, node: Node, output: str, links: Mapping[str, list[_Link]]) -> list[_Link]:
    """Links of tensor `output` of a node without a kernel."""
    layer, width = graph.layer_of(node), _width(graph, output)
    found, start = {}, 0
    for tensor in node.inputs:
        source = _width(graph, tensor)
        for link in links[tensor]:
            channels = _channels(layer, link, source, width, start)
            if channels is None:
                reason = link.reason or f"'{node.name}' ({layer.class_name}) does not keep the channels apart"
                link = _Link(link.writer, None, reason)
            else:
                link = _Link(link.writer, channels)
            found[link.writer, b"" if channels is None else channels.tobytes()] = link
        start += source or 0
    return list(found.values())


def _width(graph: Graph, tensor: str) -> int | None:
    """Number of channels of a tensor; None if it is not known."""
    shape = graph.specs[tensor].shape
    return shape[-1] if len(shape) > 1 else None


def _channels(layer: Layer, link: _Link, source: int | None, width: int | None, start: int) -> np.ndarray | None:
    """The link's channels after `layer`; None if they are not known.

    The layer reads `source` channels in the tensor of the link, and writes `width`. A concatenation puts these at `start`.
    """
    operation, channels_go = layer.operation, operation_of(layer).channels
    if link.channels is None or not source or not width or channels_go == "moved":
        return None
    if isinstance(operation, keras.layers.Concatenate):
        if operation.axis != -1 and width == source:
            return link.channels
        channels = np.full(width, -1)
        if start + source > width:
            return None
        channels[start : start + source] = link.channels
        return channels
    if isinstance(operation, keras.layers.Flatten):
        return np.tile(link.channels, width // source)
    in_place = not layer.weights or channels_go in ("apart", "mixed")
    return link.channels if in_place and width == source else None


# Buffers as layers ----------------------------------------------------------------------------------------------------


def _insert_before(graph: Graph, node: Node, factor: np.ndarray) -> None:
    source, name = node.inputs[0], graph.fresh_name(f"{node.layer}_{_INPUT_SUFFIX}")
    key = _buffer(graph, node.layer, _INPUT_SUFFIX, factor)
    swap = lambda value: Ref(name) if value == Ref(source) else value  # noqa: E731
    fed = dataclasses.replace(
        node, args=tuple(map(swap, node.args)), kwargs={k: swap(value) for k, value in node.kwargs.items()}
    )
    at = graph.nodes.index(node)
    graph.nodes[at : at + 1] = [Node(name, key, (Ref(source),), {}, (name,)), fed]
    graph.specs[name] = graph.specs[source]


def _insert_after(graph: Graph, node: Node, factor: np.ndarray) -> None:
    name = graph.fresh_name(f"{node.layer}_{_OUTPUT_SUFFIX}")
    key = _buffer(graph, node.layer, _OUTPUT_SUFFIX, factor)
    graph.redirect(node.output, name)
    node = graph.node(node.name)
    graph.nodes.insert(graph.nodes.index(node) + 1, Node(name, key, (Ref(node.output),), {}, (name,)))
    graph.specs[name] = graph.specs[node.output]


def _buffer(graph: Graph, key: str, suffix: str, factor: np.ndarray) -> str:
    """Key of the layer that multiplies by `factor`. All calls of a shared layer get the same one."""
    name = f"{key}_{suffix}"
    if name not in graph.layers:
        graph.layers[name] = weightless(keras.layers.Rescaling, factor.astype(np.float32), name=name)
    return name
