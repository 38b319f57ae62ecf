"""Removes the channels that a network needs least, without data.

    groups of channels (remove_channels.py) -> what each would cost (channel_order.py)
        -> how many each space loses (channel_budget.py) -> readers refitted -> a smaller graph

A *space* is a set of groups that pass through the same layers: a residual stream, or the inside of a bottleneck. The cost of a
group is the part of its readers' output energy that is lost once they are refitted to the channels that stay. The means of the
removed channels go into the readers' biases, or into the BatchNorm after them. Where padding replaces channels, they count
less.
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
    find_layout,
    from_output_last,
    kernel_of,
    layout_of,
    mean_response,
    output_last,
    scale_inputs,
    with_kernel,
)
from tfdatafree.model.network import InputRanges
from tfdatafree.pruning.channel_budget import Kernel, choose_channel_counts
from tfdatafree.pruning.channel_order import Reader, order_channels, output_energy, refit_without
from tfdatafree.pruning.remove_channels import Channels, find_channels, without_groups
from tfdatafree.recipe.prune import Prune


@dataclass(frozen=True)
class PrunedChannels:
    """A graph with fewer channels.

    Attributes:
        graph: The smaller graph; tensors and layers keep their names.
        layers: Layer key -> part of its weights that was removed.
        sparsity: The same for all layers together.
        reasons: Layer key -> why its channels stay.
    """

    graph: Graph
    layers: dict[str, float]
    sparsity: float
    reasons: dict[str, str]


class ChannelPruner:
    """Removes channels, to one or to several sparsities. What does not depend on the sparsity is measured once.

    Args:
        unfolded: A separated graph with its BatchNorms, whose statistics take the place of data.
        options: Only `multiple`, `correct`, `refit`, `inputs`, `activations` and `images` have an effect.
        input_ranges: Ranges of the model's inputs.
    """

    def __init__(self, unfolded: Graph, options: Prune, *, input_ranges: InputRanges, seed: int = 0):
        self._unfolded, self._options = unfolded, options
        self._channels = channels = find_channels(unfolded)
        self._spaces = find_spaces(channels)
        self._kernels = _describe_kernels(unfolded, channels, self._spaces)
        self._statistics = _measure_statistics(unfolded, seed)
        self._covariances = input_covariances(
            unfolded,
            unfolded,
            drawing(unfolded, input_ranges),
            inputs=options.inputs,
            activations=options.activations,
            images=options.images,
            seed=seed,
        )
        self._orders = [self._order(space) for space in self._spaces]

    def __call__(self, sparsity: float) -> PrunedChannels:
        """Removes about `sparsity` of the weights of all kernels as whole channels."""
        unfolded, channels = self._unfolded, self._channels
        losses = [values for _, values in self._orders]
        counts = choose_channel_counts(losses, self._kernels, sparsity, multiple=self._options.multiple)
        removed: set[int] = set()
        for space, (order, _), count in zip(self._spaces, self._orders, counts, strict=True):
            removed.update(space[order[: len(space) - count]].tolist())
        graph = _refit_readers(unfolded, channels, removed, self._covariances, self._statistics, self._options)
        graph = without_groups(graph, channels, removed)
        before, after = _count_weights(unfolded), _count_weights(graph)
        layers = {key: 1 - after.get(key, 0) / size for key, size in before.items()}
        reached = 1 - sum(after.values()) / max(sum(before.values()), 1)
        reasons = {key: f"channels not removed: {why}" for key, why in channels.layer_reasons.items()}
        return PrunedChannels(graph, layers, reached, reasons)

    def _order(self, space: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(order in which the channels of the space go, loss that each adds)."""
        graph, read = self._unfolded, self._channels.read
        readers = [
            _reader(graph, node, read[key], space, self._covariances.get(key), self._statistics)
            for key, node in _first_calls(graph).items()
            if key in read and layout_of(graph.layers[key]).kind != "depthwise" and np.isin(space[:1], read[key]).any()
        ]
        return order_channels(readers) if readers else (np.arange(len(space)), np.zeros(len(space)))


def prune_channels(unfolded: Graph, options: Prune, *, input_ranges: InputRanges, seed: int = 0) -> PrunedChannels:
    """Removes about `options.sparsity` of the weights of all kernels as whole channels; see `ChannelPruner`."""
    return ChannelPruner(unfolded, options, input_ranges=input_ranges, seed=seed)(options.zeros)


def find_spaces(channels: Channels) -> list[np.ndarray]:
    """Removable groups that pass through the same layers, each as an array (groups,)."""
    roles: dict[int, list[tuple]] = {group: [] for group in channels.groups.tolist()}
    for role, groups_of in (("read", channels.read), ("written", channels.written)):
        for key, ids in groups_of.items():
            for group, count in zip(*np.unique(ids, return_counts=True), strict=True):
                if int(group) in roles:
                    roles[int(group)].append((role, key, int(count)))
    spaces: dict[tuple, list[int]] = {}
    for group, roles_of_group in roles.items():
        spaces.setdefault(tuple(roles_of_group), []).append(group)
    return [np.array(groups) for groups in spaces.values()]


def _count_weights(graph: Graph) -> dict[str, int]:
    return {key: kernel_of(layer).size for key, layer in graph.layers.items() if find_layout(layer)}


def _describe_kernels(graph: Graph, channels: Channels, spaces: list[np.ndarray]) -> list[Kernel]:
    """Each kernel as the budget counts it: its taps, and the spaces on both of its sides."""
    space_of = {int(group): at for at, space in enumerate(spaces) for group in space}
    kernels = []
    for key, layer in graph.layers.items():
        if find_layout(layer) is None:
            continue
        kernel = kernel_of(layer)
        sides = []
        for ids in (channels.read.get(key), channels.written.get(key)):
            owners = [space_of.get(group, -1) for group in (() if ids is None else ids.tolist())]
            positions = {at: owners.count(at) // len(spaces[at]) for at in set(owners) - {-1}}
            sides.append((owners.count(-1), positions))
        if key not in channels.read:
            kernels.append(Kernel(kernel.size, (1, {}), (1, {})))
        elif layout_of(layer).kind == "depthwise":
            kernels.append(Kernel(kernel.size // kernel.shape[-2], sides[0], (1, {})))
        else:
            kernels.append(Kernel(kernel.size // (kernel.shape[-1] * kernel.shape[-2]), *sides))
    return kernels


def _measure_statistics(graph: Graph, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensor -> mean and variance of its channels, from BatchNorm statistics."""
    return {
        tensor: (values.mean(axis=0, dtype=np.float64), values.var(axis=0, dtype=np.float64))
        for tensor, values in gaussian_walk(graph, seed=seed)
    }


def _first_calls(graph: Graph) -> dict[str, Node]:
    """Layer key -> first call of the layer, for layers with a kernel."""
    return {key: node for key, node in graph.first_calls().items() if find_layout(graph.layers[key])}


def _batchnorm_after(graph: Graph, node: Node) -> Node | None:
    """The BatchNorm that is the only reader of what `node` writes, if both layers are called only here."""
    readers = graph.consumers()[node.output]
    if len(readers) != 1 or node.output in graph.outputs or not is_batchnorm(graph.layer_of(readers[0])):
        return None
    called_once = graph.calls()[readers[0].layer] == 1 and graph.calls()[node.layer] == 1
    return readers[0] if called_once and on_channels(graph, readers[0]) else None


def _by_input(layer: Layer, inputs: int) -> np.ndarray:
    """The kernel as (inputs, outputs). `inputs` counts taps and channels, or channels only. Then taps are further outputs."""
    matrix = output_last(kernel_of(layer), layout_of(layer))
    taps = len(matrix) // inputs
    return np.moveaxis(matrix.reshape(taps, inputs, -1), 0, 1).reshape(inputs, -1)


def _from_by_input(values: np.ndarray, layer: Layer) -> np.ndarray:
    """Undoes `_by_input`."""
    layout, shape = layout_of(layer), kernel_of(layer).shape
    rows, outputs = output_last(kernel_of(layer), layout).shape
    taps = rows // len(values)
    matrix = np.moveaxis(values.reshape(len(values), taps, outputs), 1, 0).reshape(rows, outputs)
    return from_output_last(matrix, shape, layout)


def _covariance_of(graph: Graph, node: Node, covariance: np.ndarray | None, statistics: Mapping) -> np.ndarray:
    """Covariance (inputs, inputs) of what `node` reads; where it is unknown, that of independent channels."""
    if covariance is not None:
        return covariance[0]
    return np.diag(statistics[node.inputs[0]][1])


def _reader(
    graph: Graph, node: Node, ids: np.ndarray, space: np.ndarray, covariance: np.ndarray | None, statistics: Mapping
) -> Reader:
    """`node` as a reader of the groups in `space`.

    Args:
        ids: Group of each channel that the node reads.
    """
    layer = graph.layer_of(node)
    covariance = _covariance_of(graph, node, covariance, statistics)
    weights = _by_input(layer, len(covariance))
    batchnorm = _batchnorm_after(graph, node)
    if batchnorm is not None:
        gain, _ = scale_and_shift(graph.layer_of(batchnorm))
        weights = weights * np.tile(gain, weights.shape[1] // len(gain))
    positions = np.argsort(ids, kind="stable")
    first = np.searchsorted(ids[positions], space)
    times = int(np.count_nonzero(ids == space[0]))
    channels = positions[first[:, None] + np.arange(times)]
    taps = len(covariance) // len(ids)
    rows = (np.arange(taps) * len(ids))[:, None] + channels[:, None, :]
    # As parts of the reader's output energy, losses of different readers may be added.
    weights = weights / np.sqrt(max(output_energy(weights, covariance), 1e-30))
    return Reader(covariance, weights, rows.reshape(len(space), -1))


def _refit_readers(
    graph: Graph, channels: Channels, removed: set[int], covariances: Mapping, statistics: Mapping, options: Prune
) -> Graph:
    """The graph whose kernels do not read the groups `removed` and are refitted to the other channels."""
    refitted = graph.copy()
    gone = np.array(sorted(removed), np.int64)
    for key, node in _first_calls(graph).items():
        layer, ids = graph.layers[key], channels.read.get(key)
        if ids is None or layout_of(layer).kind == "depthwise" or not np.isin(ids, gone).any():
            continue
        lost = np.isin(ids, gone)
        if options.refit is False:
            kernel = scale_inputs(kernel_of(layer), layout_of(layer), ~lost)
        else:
            covariance = _covariance_of(graph, node, covariances.get(key), statistics)
            matrix = _by_input(layer, len(covariance))
            lost = np.tile(lost, len(covariance) // len(ids))
            kernel = _from_by_input(refit_without(matrix, covariance, lost), layer)
        refitted.layers[key] = with_kernel(layer, kernel)
        if options.correct:
            _correct_mean(refitted, graph, node, kernel - kernel_of(layer), statistics[node.inputs[0]][0])
    return refitted


def _correct_mean(refitted: Graph, graph: Graph, node: Node, change: np.ndarray, mean: np.ndarray) -> None:
    """Takes back the shift of the output means that `change` of the kernel of `node` causes for inputs of mean `mean`."""
    layer = refitted.layers[node.layer]
    shares = tap_shares(layer, graph.specs[node.inputs[0]].shape[1:-1])
    shift = mean_response(layer, change * shares[..., None, None] if shares.ndim else change, mean)
    batchnorm_node = _batchnorm_after(graph, node)
    if batchnorm_node is not None:
        batchnorm = refitted.layers[batchnorm_node.layer]
        moving_mean = batchnorm.weight("moving_mean") + shift
        refitted.layers[batchnorm_node.layer] = batchnorm.with_weights(moving_mean=moving_mean)
        return
    bias = layer.weight("bias")
    shape = graph.specs[node.inputs[0]].shape
    refitted.layers[node.layer] = with_bias(layer, shape, -shift if bias is None else bias - shift)
