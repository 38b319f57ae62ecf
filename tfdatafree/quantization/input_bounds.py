"""Bounds of tensors that follow from the ranges of a model's inputs, which the file clips.

Values x_c in [l_c, h_c] per channel c, zero included where a layer pads, give a layer with kernel W and bias b

    y_o <= b_o + sum max(W, 0) h + sum min(W, 0) l,      y_o >= b_o + sum max(W, 0) l + sum min(W, 0) h

so that no input within its range leads beyond. Bounds grow with every layer, so they are close to what is reached behind the
first one or two layers only. There they are closer than an extreme value that few generated inputs are extrapolated to.
"""

from collections.abc import Mapping

import numpy as np

from tfdatafree.model.batchnorm import is_batchnorm, on_channels, scale_and_shift
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.model.kernels import find_layout, input_channels, kernel_of, summed_response
from tfdatafree.model.operations import operation_of, rectifier_of
from tfdatafree.numerics.range import Range

# Lowest and highest value of each channel, each (channels,) or (1,) for all channels.
_Interval = tuple[np.ndarray, np.ndarray]


def bounds_behind_inputs(graph: Graph, input_ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Tensor -> range that it cannot leave, zero included; for the tensors that follow from the inputs by known operations.

    Args:
        graph: A separated, folded graph.
        input_ranges: Ranges of its inputs; others are ignored.
    """
    known = {
        name: _whole(input_ranges[name].low, input_ranges[name].high) for name in graph.inputs if name in input_ranges
    }
    for node in graph.nodes:
        if len(node.inputs) == 1 and len(node.outputs) == 1 and node.inputs[0] in known:
            interval = _behind(graph, node, known[node.inputs[0]])
            if interval is not None:
                known[node.output] = interval
    return {
        tensor: Range(min(float(low.min()), 0.0), max(float(high.max()), 0.0))
        for tensor, (low, high) in known.items()
        if tensor not in graph.inputs
    }


def _whole(low: float, high: float) -> _Interval:
    return np.array([low], np.float64), np.array([high], np.float64)


def _behind(graph: Graph, node: Node, interval: _Interval) -> _Interval | None:
    """The interval of what `node` writes; None if it is not known."""
    layer, (low, high) = graph.layer_of(node), interval
    if find_layout(layer) is not None:
        return _behind_kernel(layer, low, high)
    if is_batchnorm(layer) and on_channels(graph, node):
        factor, shift = scale_and_shift(layer)
        ends = low * factor + shift, high * factor + shift
        return np.minimum(*ends), np.maximum(*ends)
    known = operation_of(layer)
    if known.no_op:
        return interval
    if _is_straight(layer):
        return _through(graph, node, low, high)
    if known.values is None and not (known.spatial and known.homogeneous):
        return None
    # Padding adds zeros. Averages stay between the ends.
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    return (low, high) if known.channels == "apart" else _whole(low.min(), high.max())


def _is_straight(layer: Layer) -> bool:
    """Whether the layer works on single values, and its largest and smallest result in an interval are at its ends or at 0."""
    known, rectifier = operation_of(layer), rectifier_of(layer.operation)
    if rectifier is not None:
        return rectifier.slope >= 0 or rectifier.homogeneous
    return known.channels == "apart" and known.homogeneous and not known.spatial


def _through(graph: Graph, node: Node, low: np.ndarray, high: np.ndarray) -> _Interval:
    source, channels = node.inputs[0], graph.specs[node.inputs[0]].size(-1)
    ends = [np.broadcast_to(end, (channels,)) for end in (low, np.zeros(1), high)]
    ones = [1] * (len(graph.specs[source].shape) - 2)
    points = np.stack(ends).reshape(len(ends), *ones, channels).astype(np.float32)
    results = np.asarray(graph.call(node, {source: points})[0], np.float64).reshape(-1, channels)
    return results.min(axis=0), results.max(axis=0)


def _behind_kernel(layer: Layer, low: np.ndarray, high: np.ndarray) -> _Interval:
    kernel, channels = kernel_of(layer), input_channels(layer)
    low, high = (np.broadcast_to(end, (channels,)) for end in (np.minimum(low, 0), np.maximum(high, 0)))
    up, down = np.maximum(kernel, 0), np.minimum(kernel, 0)
    bias = layer.weight("bias")
    shift = 0.0 if bias is None else bias.astype(np.float64)
    return (
        summed_response(layer, up, low) + summed_response(layer, down, high) + shift,
        summed_response(layer, up, high) + summed_response(layer, down, low) + shift,
    )
