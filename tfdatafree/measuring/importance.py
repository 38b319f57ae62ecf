"""Weighs squared errors in the channels of a tensor by their effect on the next layers that mix channels, without gradients.

A layer that mixes channels sums the errors of its inputs. An error counts by its part of the variance of the layer's output:

    w_c = mean_o sum_k W_kco^2 / Var(y_o)

A depthwise layer passes errors on, w_c = sum_k W_kc^2 w_c'. Activations, pooling and Add pass them on unchanged.
If a channel is scaled down in one layer and up in the next, w_c e_c stays the same, so channels of any scale compare.
"""

from collections.abc import Mapping

import numpy as np

from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import find_layout, input_channels, kernel_of, layout_of

# The variance of an output counts as at least this part of its tensor's mean variance.
_LEAST_VARIANCE = 1e-3


def channel_importance(graph: Graph, variances: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensor -> weight of a squared error in each of its channels, (channels,). Tensors whose effect is unknown are left out.

    Args:
        graph: A folded, separated graph.
        variances: Tensor -> variance per channel.
    """
    importance: dict[str, np.ndarray] = {}
    for node in reversed(graph.nodes):
        layer = graph.layer_of(node)
        layout, of_output = find_layout(layer), importance.get(node.output)
        if layout is None:
            of_inputs = dict.fromkeys(node.inputs, of_output)
        elif layout.kind == "depthwise":
            squares = _squares(layer)
            of_inputs = {
                node.inputs[0]: None if of_output is None else (squares * of_output.reshape(squares.shape)).sum(axis=1)
            }
        else:
            of_inputs = {node.inputs[0]: _mixed(layer, variances.get(node.output))}
        for tensor, weights in of_inputs.items():
            if weights is not None and graph.specs[tensor].shape[-1] == len(weights):
                importance[tensor] = importance.get(tensor, 0.0) + weights
    return importance


def _squares(layer: Layer) -> np.ndarray:
    """Squares of the kernel summed over its spatial axes, in the order of its last two."""
    kernel = kernel_of(layer)
    taps = kernel.reshape(-1, *kernel.shape[-2:])
    return np.einsum("tio,tio->io", taps, taps)


def _mixed(layer: Layer, variance: np.ndarray | None) -> np.ndarray | None:
    """w_c of a layer that mixes channels; None if the variances of its outputs are not known."""
    if variance is None:
        return None
    floor = max(_LEAST_VARIANCE * variance.mean(), 1e-30)
    squares = _squares(layer).T if layout_of(layer).kind == "transpose" else _squares(layer)
    parts = squares / np.maximum(variance, floor) / len(variance)
    groups = input_channels(layer) // len(squares)
    return parts.reshape(len(squares), groups, -1).sum(axis=2).T.reshape(-1)
