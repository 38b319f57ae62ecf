"""Channels that a network can do without are removed, without data.

    groups of channels (remove_channels.py) -> what each would cost (channel_order.py)
        -> how many each space loses (channel_budget.py) -> readers refitted -> a smaller graph

A *space* is a set of groups that pass through the same layers: a residual stream, the inside of a bottleneck. The cost of a
group is the part of the output energy of the layers that read it that is lost once they are refitted to what stays; what the
removed channels are on average goes into the readers' biases (or the BatchNorm behind them), less where padding replaces them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfdatafree.inputs.make import drawing
from tfdatafree.measuring.covariances import input_covariances
from tfdatafree.measuring.gaussian import gaussian_walk
from tfdatafree.measuring.patches import tap_shares
from tfdatafree.model.batchnorm import is_batchnorm, on_channels, scale_and_shift, with_bias
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.model.kernels import (
    from_output_last,
    kernel_of,
    layout_of,
    mean_response,
    output_last,
    scale_inputs,
    with_kernel,
)
from tfdatafree.pruning.channel_budget import Kernel, channels_left
from tfdatafree.pruning.channel_order import Reader, elimination, energy, refit_without
from tfdatafree.pruning.remove_channels import Channels, find_channels, without_groups
from tfdatafree.recipe.prune import Prune


@dataclass(frozen=True)
class Smaller:
    """A graph with fewer channels.

    Attributes:
        graph: The smaller graph; tensors and layers keep their names.
        layers: Layer key -> part of its weights that went.
        sparsity: The same for all layers together.
        kept: Layer key -> why its channels stay.
    """

    graph: Graph
    layers: dict[str, float]
    sparsity: float
    kept: dict[str, str]


def prune_channels(unfolded: Graph, options: Prune, *, input_range: tuple[float, float], seed: int = 0) -> Smaller:
    """Removes about `options.sparsity` of the weights of all kernels as whole channels.

    Args:
        unfolded: A separated graph with its BatchNorms: their statistics are the data.
        options: Of these, `sparsity`, `multiple`, `correct`, `refit`, `inputs`, `activations` and `images` count.
        input_range: (low, high) of the model's inputs.
    """
    channels = find_channels(unfolded)
    spaces = find_spaces(channels)
    kernels = _kernels(unfolded, channels, spaces)
    statistics = _statistics(unfolded, seed)
    covariances = input_covariances(
        unfolded,
        unfolded,
        drawing(unfolded, input_range),
        inputs=options.inputs,
        activations=options.activations,
        images=options.images,
        seed=seed,
    )
    readers = _readers(unfolded)
    plans = []
    for space in spaces:
        seen = [
            _reader(unfolded, node, channels.read[key], space, covariances.get(key), statistics)
            for key, node in readers.items()
            if key in channels.read and layout_of(unfolded.layers[key]).kind != "depthwise"
            and np.isin(space[:1], channels.read[key]).any()
        ]  # fmt: skip
        plans.append(elimination(seen) if seen else (np.arange(len(space)), np.zeros(len(space))))
    left = channels_left([losses for _, losses in plans], kernels, options.sparsity, multiple=options.multiple)
    removed: set[int] = set()
    for space, (order, _), count in zip(spaces, plans, left, strict=True):
        removed.update(space[order[: len(space) - count]].tolist())
    graph = _compensated(unfolded, channels, removed, covariances, statistics, options)
    graph = without_groups(graph, channels, removed)
    before, after = _weights(unfolded), _weights(graph)
    layers = {key: 1 - after.get(key, 0) / size for key, size in before.items()}
    gone = 1 - sum(after.values()) / max(sum(before.values()), 1)
    return Smaller(graph, layers, gone, {key: f"channels not removed: {why}" for key, why in channels.kept.items()})


def find_spaces(channels: Channels) -> list[np.ndarray]:
    """Removable groups that pass through the same layers, each as an array (groups,)."""
    passes: dict[int, list[tuple]] = {group: [] for group in channels.groups.tolist()}
    for role, ends in (("read", channels.read), ("written", channels.written)):
        for key, ids in ends.items():
            for group, count in zip(*np.unique(ids, return_counts=True), strict=True):
                if int(group) in passes:
                    passes[int(group)].append((role, key, int(count)))
    spaces: dict[tuple, list[int]] = {}
    for group, through in passes.items():
        spaces.setdefault(tuple(through), []).append(group)
    return [np.array(groups) for groups in spaces.values()]


def _weights(graph: Graph) -> dict[str, int]:
    return {key: kernel_of(layer).size for key, layer in graph.layers.items() if layout_of(layer)}


def _kernels(graph: Graph, channels: Channels, spaces: list[np.ndarray]) -> list[Kernel]:
    space_of = {int(group): at for at, space in enumerate(spaces) for group in space}
    found = []
    for key, layer in graph.layers.items():
        if layout_of(layer) is None:
            continue
        kernel = kernel_of(layer)
        ends = []
        for ids in (channels.read.get(key), channels.written.get(key)):
            owners = [space_of.get(group, -1) for group in (() if ids is None else ids.tolist())]
            per = {at: owners.count(at) // len(spaces[at]) for at in set(owners) - {-1}}
            ends.append((owners.count(-1), per))
        if key not in channels.read:
            found.append(Kernel(kernel.size, (1, {}), (1, {})))
        elif layout_of(layer).kind == "depthwise":
            found.append(Kernel(kernel.size // kernel.shape[-2], ends[0], (1, {})))
        else:
            found.append(Kernel(kernel.size // (kernel.shape[-1] * kernel.shape[-2]), *ends))
    return found


def _statistics(graph: Graph, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensor -> mean and variance of its channels, from BatchNorm statistics."""
    return {
        tensor: (values.mean(axis=0, dtype=np.float64), values.var(axis=0, dtype=np.float64))
        for tensor, values in gaussian_walk(graph, seed=seed)
    }


def _readers(graph: Graph) -> dict[str, Node]:
    """Layer key -> its first call."""
    found: dict[str, Node] = {}
    for node in graph.nodes:
        if layout_of(graph.layer_of(node)):
            found.setdefault(node.layer, node)
    return found


def _batchnorm_behind(graph: Graph, node: Node) -> Node | None:
    """The BatchNorm that alone reads what `node` writes, if it stands there for this call only."""
    readers = graph.consumers()[node.output]
    if len(readers) != 1 or node.output in graph.outputs or not is_batchnorm(graph.layer_of(readers[0])):
        return None
    alone = graph.calls()[readers[0].layer] == 1 and graph.calls()[node.layer] == 1
    return readers[0] if alone and on_channels(graph, readers[0]) else None


def _by_input(layer: Layer, inputs: int) -> np.ndarray:
    """The kernel as (inputs, outputs), where `inputs` counts taps, too, or channels only: then taps are further outputs."""
    matrix = output_last(kernel_of(layer), layout_of(layer))
    taps = len(matrix) // inputs
    return np.moveaxis(matrix.reshape(taps, inputs, -1), 0, 1).reshape(inputs, -1)


def _from_by_input(values: np.ndarray, layer: Layer) -> np.ndarray:
    """Undoes `_by_input`: a kernel of the layer's shape."""
    layout, shape = layout_of(layer), kernel_of(layer).shape
    rows, outputs = output_last(kernel_of(layer), layout).shape
    taps = rows // len(values)
    matrix = np.moveaxis(values.reshape(len(values), taps, outputs), 1, 0).reshape(rows, outputs)
    return from_output_last(matrix, shape, layout)


def _covariance(graph: Graph, node: Node, covariance: np.ndarray | None, statistics: Mapping) -> np.ndarray:
    """(inputs, inputs); independent channels where it is not known."""
    if covariance is not None:
        return covariance[0]
    return np.diag(statistics[node.inputs[0]][1])


def _reader(
    graph: Graph, node: Node, ids: np.ndarray, space: np.ndarray, covariance: np.ndarray | None, statistics: Mapping
) -> Reader:
    """`node` as a reader of the groups `space`; `ids`: group of each channel that it reads."""
    layer = graph.layer_of(node)
    covariance = _covariance(graph, node, covariance, statistics)
    weights = _by_input(layer, len(covariance))
    behind = _batchnorm_behind(graph, node)
    if behind is not None:
        gain, _ = scale_and_shift(graph.layer_of(behind))
        weights = weights * np.tile(gain, weights.shape[1] // len(gain))
    positions = np.argsort(ids, kind="stable")
    first = np.searchsorted(ids[positions], space)
    times = int(np.count_nonzero(ids == space[0]))
    at = positions[first[:, None] + np.arange(times)]
    taps = len(covariance) // len(ids)
    rows = (np.arange(taps) * len(ids))[:, None] + at[:, None, :]
    # In parts of the reader's output energy, losses of different readers may be added.
    weights = weights / np.sqrt(max(energy(weights, covariance), 1e-30))
    return Reader(covariance, weights, rows.reshape(len(space), -1))


def _compensated(
    graph: Graph, channels: Channels, removed: set[int], covariances: Mapping, statistics: Mapping, options: Prune
) -> Graph:
    """The graph whose kernels do not read the groups `removed`, and do their best without."""
    found = graph.copy()
    gone = np.array(sorted(removed), np.int64)
    for key, node in _readers(graph).items():
        layer, ids = graph.layers[key], channels.read.get(key)
        if ids is None or layout_of(layer).kind == "depthwise" or not np.isin(ids, gone).any():
            continue
        lost = np.isin(ids, gone)
        if options.refit is False:
            kernel = scale_inputs(kernel_of(layer), layout_of(layer), ~lost)
        else:
            covariance = _covariance(graph, node, covariances.get(key), statistics)
            matrix = _by_input(layer, len(covariance))
            lost = np.tile(lost, len(covariance) // len(ids))
            kernel = _from_by_input(refit_without(matrix, covariance, lost), layer)
        found.layers[key] = with_kernel(layer, kernel)
        if options.correct:
            _correct_mean(found, graph, node, kernel - kernel_of(layer), statistics[node.inputs[0]][0])
    return found


def _correct_mean(found: Graph, graph: Graph, node: Node, change: np.ndarray, mean: np.ndarray) -> None:
    """Takes the shift of the outputs' means back that `change` of the kernel of `node` causes for inputs of mean `mean`."""
    layer = found.layers[node.layer]
    shares = tap_shares(layer, graph.specs[node.inputs[0]].shape[1:-1])
    shift = mean_response(layer, change * shares[..., None, None] if shares.ndim else change, mean)
    behind = _batchnorm_behind(graph, node)
    if behind is not None:
        batchnorm = found.layers[behind.layer]
        moved = batchnorm.weight("moving_mean") + shift
        found.layers[behind.layer] = batchnorm.with_weights(moving_mean=moved)
        return
    bias = layer.weight("bias")
    shape = graph.specs[node.inputs[0]].shape
    found.layers[node.layer] = with_bias(layer, shape, -shift if bias is None else bias - shift)
