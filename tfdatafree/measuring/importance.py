"""How much of a squared error in one channel of a tensor the next layers make: one look ahead, without gradients.

A layer that mixes channels adds up what its inputs are off; an error counts by the part that it makes of the variance there:

    w_c = mean_o sum_k W_kco^2 / Var(y_o)

A depthwise layer hands errors on, w_c = sum_k W_kc^2 w_c', and so do activations, pooling and Add, as they are.
Scaling a channel down in one layer and up in the next leaves the product w_c e_c alone, so channels of any scale compare.
"""

from collections.abc import Mapping

import numpy as np

from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import find_layout, input_channels, kernel_of, layout_of

# Outputs that vary less than this part of their tensor's mean variance are taken to vary by that much.
_LEAST_VARIANCE = 1e-3


def channel_importance(graph: Graph, variances: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensor -> weight of a squared error in each of its channels, (channels,); tensors that no such layer reads are left out.

    Args:
        graph: A folded, separated graph.
        variances: Tensor -> variance per channel.
    """
    found: dict[str, np.ndarray] = {}
    for node in reversed(graph.nodes):
        layer = graph.layer_of(node)
        layout, ahead = find_layout(layer), found.get(node.output)
        if layout is None:
            handed = dict.fromkeys(node.inputs, ahead)
        elif layout.kind == "depthwise":
            squares = _squares(layer)
            handed = {node.inputs[0]: None if ahead is None else (squares * ahead.reshape(squares.shape)).sum(axis=1)}
        else:
            handed = {node.inputs[0]: _mixed(layer, variances.get(node.output))}
        for tensor, weights in handed.items():
            if weights is not None and graph.specs[tensor].shape[-1] == len(weights):
                found[tensor] = found.get(tensor, 0.0) + weights
    return found


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
