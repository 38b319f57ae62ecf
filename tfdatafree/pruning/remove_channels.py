"""Removes channels from a model: from kernels, biases, normalizations, and from every tensor that holds them.

A *group* are channels that can only be removed together, in several tensors and layers. Add, Multiply, depthwise convolutions,
activations and the like tie channel c of their inputs to channel c of their output. A group reaches from the layers that write
its channels to the layers that read them. With R the removed groups,

    W' = W[rows not in R, columns not in R],     b' = b[not in R],     gamma', beta', mean', variance' = ...[not in R]

so that the smaller model computes exactly what the former one would compute if the rows of every kernel for R were zero. How
the readers of a channel change without it is decided before (`channels.py`).

A group that cannot be removed has a reason. It holds an input or an output of the model, or an operation that touches it forbids
it. Such operations are grouped convolutions, softmax over channels, and all that are not known to keep channels apart.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfdatafree.canonical.separate import separate
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.model.kernels import find_layout, input_channels, kernel_of, layout_of
from tfdatafree.model.operations import is_activation_layer, operation_of
from tfdatafree.pruning.shrink_layers import CUTTABLE, shrink_constants, shrink_layer

# Operations of keras.ops that compute one value from all values along some axes.
_REDUCTIONS = ("Mean", "Sum", "Max", "Min", "Amax", "Amin")


@dataclass(frozen=True)
class Channels:
    """Which channels of a graph go together.

    Attributes:
        of: Tensor -> the group of each position of its last axis, int (channels,).
        read, written: Key of a layer with a kernel -> the group of each channel that it reads or writes. A depthwise
            convolution writes what it reads.
        reasons: Group -> why it cannot be removed.
    """

    of: dict[str, np.ndarray]
    read: dict[str, np.ndarray]
    written: dict[str, np.ndarray]
    reasons: dict[int, str]

    @property
    def groups(self) -> np.ndarray:
        """Groups that can be removed, ascending; those that no layer with a kernel writes are left out."""
        written = [ids for key, ids in self.written.items()]
        groups = np.unique(np.concatenate(written)) if written else np.zeros(0, np.int64)
        return groups[[group not in self.reasons for group in groups.tolist()]] if len(groups) else groups

    @property
    def layer_reasons(self) -> dict[str, str]:
        """Layer key -> why its channels, or some of them, cannot be removed."""
        reasons = {}
        for key, ids in self.written.items():
            bound = [group for group in np.unique(ids).tolist() if group in self.reasons]
            if bound:
                share = "its channels stay" if len(bound) == len(np.unique(ids)) else f"{len(bound)} channel(s) stay"
                reasons[key] = f"{share}: {self.reasons[bound[0]]}"
        return reasons


@dataclass(frozen=True)
class Removed:
    """Result of `remove_channels`: the model, and for each layer whose channels could not all be removed, why not."""

    model: keras.Model
    kept: dict[str, str]


def remove_channels(model: keras.Model, channels: Mapping[str, Sequence[int]]) -> Removed:
    """A smaller model that computes what `model` would if nothing read these channels.

    Args:
        model: A Functional or Sequential model; it is not changed.
        channels: Layer name -> output channels to remove. The channels that are tied to them are removed, too.

    Raises:
        UnsupportedModelError: The model is subclassed or was never built.
        ValueError: The model has no such layer or channel, or the layer has no kernel.
    """
    graph = separate(Graph.from_keras(model)).graph
    tied = find_channels(graph)
    removed: set[int] = set()
    reasons: dict[str, str] = {}
    for key, indices in channels.items():
        if key not in tied.written:
            known = ", ".join(tied.written)
            raise ValueError(f"no layer '{key}' writes channels of its own; choose among {known}.")
        ids = tied.written[key]
        beyond = [index for index in indices if not 0 <= index < len(ids)]
        if beyond:
            raise ValueError(f"'{key}' has channels 0 to {len(ids) - 1}; {beyond} came.")
        wanted = {int(ids[index]) for index in indices}
        refused = [group for group in wanted if group in tied.reasons]
        if refused:
            reasons[key] = tied.reasons[refused[0]]
        removed |= wanted.difference(refused)
    return Removed(without_groups(graph, tied, removed).to_keras(), reasons)


def find_channels(graph: Graph) -> Channels:
    """The channel groups of a separated graph, its BatchNorms folded or not."""
    return _Finder(graph).find()


def without_groups(graph: Graph, channels: Channels, removed: Collection[int]) -> Graph:
    """The graph without the groups `removed`. `channels` are those of this graph.

    Raises:
        ValueError: A group cannot be removed, or a layer would be left without channels.
    """
    bound = [group for group in removed if group in channels.reasons]
    if bound:
        raise ValueError(f"group {bound[0]} cannot be removed: {channels.reasons[bound[0]]}.")
    gone = np.array(sorted(removed), np.int64)
    stay = {tensor: ~np.isin(ids, gone) for tensor, ids in channels.of.items()}
    empty = [tensor for tensor, mask in stay.items() if not mask.any()]
    if empty:
        raise ValueError(f"'{empty[0]}' would lose all its channels; leave one at least.")
    former, graph = graph, graph.copy()
    for tensor, mask in stay.items():
        spec = graph.specs[tensor]
        graph.specs[tensor] = dataclasses.replace(spec, shape=(*spec.shape[:-1], int(mask.sum())))
    done: set[str] = set()
    for at, node in enumerate(former.nodes):
        touched = [tensor for tensor in (*node.inputs, *node.outputs) if tensor in stay and not stay[tensor].all()]
        if not touched:
            continue
        if node.layer not in done:
            graph.layers[node.layer] = shrink_layer(former, node, stay, graph)
            done.add(node.layer)
        graph.nodes[at] = shrink_constants(node, stay.get(node.output))
    return graph


# Which channels go together -------------------------------------------------------------------------------------------


class _Finder:
    """Walks a graph once. Groups that have to be one are tied by union-find; at the end each is replaced by its root."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.parents: list[int] = []
        self.of: dict[str, np.ndarray] = {}
        self.read: dict[str, np.ndarray] = {}
        self.written: dict[str, np.ndarray] = {}
        self.shared: dict[str, np.ndarray] = {}
        self.bound: list[tuple[int, str]] = []

    def find(self) -> Channels:
        graph = self.graph
        for tensor in graph.inputs:
            self.write(tensor, None, f"'{tensor}' is an input of the model")
        for node in graph.nodes:
            ids = self.written_by(node)
            if isinstance(ids, str):
                for tensor in node.inputs:
                    self.bind(self.of.get(tensor), ids)
                for tensor in node.outputs:
                    self.write(tensor, None, ids)
            else:
                self.write(node.output, ids)
        for tensor in graph.outputs:
            self.bind(self.of.get(tensor), f"'{tensor}' is an output of the model")
        reasons: dict[int, str] = {}
        for group, reason in self.bound:
            reasons.setdefault(self.root(group), reason)
        of, read, written = (
            {key: self.roots(ids) for key, ids in d.items()} for d in (self.of, self.read, self.written)
        )
        return Channels(of, read, written, reasons)

    def fresh(self, count: int) -> np.ndarray:
        first = len(self.parents)
        self.parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, group: int) -> int:
        while self.parents[group] != group:
            self.parents[group] = self.parents[self.parents[group]]
            group = self.parents[group]
        return group

    def roots(self, ids: np.ndarray) -> np.ndarray:
        return np.array([self.root(group) for group in ids.tolist()], np.int64)

    def tie(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            one, other = self.root(one), self.root(other)
            self.parents[max(one, other)] = min(one, other)
        return a

    def bind(self, ids: np.ndarray | None, reason: str) -> None:
        self.bound += [(group, reason) for group in (() if ids is None else ids.tolist())]

    def write(self, tensor: str, ids: np.ndarray | None, reason: str = "") -> None:
        width = _width(self.graph, tensor)
        if width is None:
            self.bind(ids, f"'{tensor}' has no known number of channels")
            return
        self.of[tensor] = self.fresh(width) if ids is None else ids
        if ids is None:
            self.bind(self.of[tensor], reason)

    def written_by(self, node: Node) -> np.ndarray | str:
        """The groups of the output of `node`, or why they are not known. Ties the groups that the node joins."""
        layer = self.graph.layer_of(node)
        unknown = f"'{node.name}' ({layer.class_name}) is not known to keep channels apart"
        if any(tensor not in self.of for tensor in node.inputs) or not node.inputs or len(node.outputs) > 1:
            return unknown
        source = self.of[node.inputs[0]]
        if getattr(layer.operation, "data_format", None) == "channels_first":
            return f"'{node.name}' ({layer.class_name}) has channels first"
        if find_layout(layer) is not None:
            return self.written_by_kernel(node, layer, source)
        width = _width(self.graph, node.output)
        if width is None or (layer.weights and not isinstance(layer.operation, CUTTABLE)):
            return unknown
        if operation_of(layer).channels == "joined":
            return self.joined(node, width)
        if isinstance(layer.operation, keras.layers.Concatenate) or layer.class_name == "Concatenate":
            return self.concatenated(node, width)
        if len(node.inputs) > 1:
            return unknown
        if not is_activation_layer(layer) or layer.weights:
            # A shared layer has one parameter per channel for all its calls. Activations without weights have none.
            first = self.shared.setdefault(node.layer, source)
            if len(first) != len(source):
                return f"'{node.layer}' is shared by calls with other numbers of channels"
            self.tie(first, source)
        if layer.class_name == "Pad":
            return self.padded(node, source)
        if isinstance(layer.operation, (keras.layers.Flatten, keras.layers.Reshape)) or layer.class_name == "Reshape":
            # The last axis varies fastest: an axis that is k times as long holds all channels k times in a row.
            known = None not in self.graph.specs[node.output].shape[1:] and width % len(source) == 0
            return np.tile(source, width // len(source)) if known else unknown
        return source if len(source) == width and _keeps_apart(self.graph, node) else unknown

    def written_by_kernel(self, node: Node, layer: Layer, source: np.ndarray) -> np.ndarray | str:
        if getattr(layer.operation, "groups", 1) > 1:
            return f"'{node.name}' is a grouped convolution"
        if input_channels(layer) != len(source):
            return f"'{node.name}' ({layer.class_name}) reads its channels in another order"
        known = self.read.setdefault(node.layer, source)
        if known is not source:
            self.tie(known, source)  # a shared layer has one kernel for all its calls
        ids = self.written.get(node.layer)
        if layout_of(layer).kind == "depthwise":
            ids = np.repeat(source, kernel_of(layer).shape[-1])
        elif ids is None:
            ids = self.fresh(self.graph.specs[node.output].size(-1))
        self.written[node.layer] = ids
        return ids

    def joined(self, node: Node, width: int) -> np.ndarray:
        result = None
        for tensor in node.inputs:
            ids = self.of[tensor]
            if len(ids) != width:
                self.bind(ids, f"'{node.name}' ({self.graph.layer_of(node).class_name}) gives it to all channels")
            else:
                result = ids if result is None else self.tie(result, ids)
        if result is None:
            result = self.fresh(width)
            self.bind(result, f"'{node.name}' repeats one channel")
        return result

    def concatenated(self, node: Node, width: int) -> np.ndarray:
        rank = len(self.graph.specs[node.output].shape)
        if self.graph.operation_of(node).axis % rank == rank - 1:
            return np.concatenate([self.of[tensor] for tensor in node.inputs])
        return self.joined(node, width)

    def padded(self, node: Node, source: np.ndarray) -> np.ndarray | str:
        operation = self.graph.operation_of(node)
        before, after = operation.pad_width[-1]
        if (before or after) and operation.mode != "constant":
            return f"'{node.name}' (Pad) repeats channels"
        return np.concatenate([self.fresh(before), source, self.fresh(after)])


def _width(graph: Graph, tensor: str) -> int | None:
    """Number of channels of a tensor; None if it is not known."""
    shape = graph.specs[tensor].shape
    return shape[-1] if len(shape) > 1 else None


def _keeps_apart(graph: Graph, node: Node) -> bool:
    """Whether a node with one input, and with as many channels in its output, treats each channel by itself."""
    layer, operation = graph.layer_of(node), graph.operation_of(node)
    rank = len(graph.specs[node.inputs[0]].shape)
    if is_batchnorm(layer) or operation_of(layer).channels == "apart":
        return True
    if isinstance(operation, keras.layers.Activation) and isinstance(operation.activation, keras.layers.Layer):
        return operation_of(Layer(operation.activation)).channels == "apart" and not layer.weights
    if isinstance(operation, keras.layers.Permute):
        return operation.dims[-1] == rank - 1
    if layer.class_name == "GetItem":
        return _leaves_channels(node.args[1] if len(node.args) > 1 else node.kwargs.get("key"), rank)
    if layer.class_name in _REDUCTIONS:
        axes = operation.axis
        return axes is not None and all(axis % rank != rank - 1 for axis in np.atleast_1d(axes).tolist())
    return False


def _leaves_channels(key: Any, rank: int) -> bool:
    """Whether x[key] keeps the whole last axis of an x of this rank."""
    parts = list(key) if isinstance(key, (tuple, list)) else [key]
    if any(part is None or not (part is Ellipsis or isinstance(part, (int, slice))) for part in parts):
        return False
    if Ellipsis in parts:
        return parts[-1] is Ellipsis or parts[-1] == slice(None)
    return len(parts) < rank or parts[-1] == slice(None)


# Taking them out ------------------------------------------------------------------------------------------------------
