"""Folds constant scales and shifts of the channels (Rescaling, Normalization, LayerScale) as if they were BatchNorms.

x * g + t  ==  bn(x) with gamma = g, beta = t, mean = 0, variance = 1, epsilon = 0
so that each goes into the layer before or after it, and a chain of them becomes one. What is left on a feature map is one
integer operator, so that it is rounded once.
"""

import keras
import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.model.graph import Graph
from tfdatafree.model.layer import Layer, new_layer
from tfdatafree.model.node import TensorSpec
from tfdatafree.model.rewrite import Rewrite


def fold_scales(graph: Graph) -> Rewrite:
    """The same function (within float rounding) of a graph without BatchNorms, with scales and shifts folded.

    `kept`: node -> why its scale and shift are an operation of their own.
    """
    graph = graph.copy()
    for tensor in graph.inputs:
        if graph.specs[tensor].dtype == "uint8":
            # A Rescaling also turns 8-bit integers into reals. The layer that takes it over expects reals.
            graph.specs[tensor] = TensorSpec(graph.specs[tensor].shape, "float32")
    for key, layer in graph.layers.items():
        spec = next(graph.specs[node.inputs[0]] for node in graph.nodes if node.layer == key)
        channels = spec.shape[-1] if len(spec.shape) > 1 else None
        affine = _scale_and_shift(layer, channels) if channels else None
        if channels is not None and affine is not None:
            g, t = (np.broadcast_to(np.asarray(values, np.float64), (channels,)) for values in affine)
            ones, zeros = np.ones(channels), np.zeros(channels)
            graph.layers[key] = new_layer(
                keras.layers.BatchNormalization,
                {"epsilon": 0.0, "name": key},
                spec.shape,
                gamma=g,
                beta=t,
                moving_mean=zeros,
                moving_variance=ones,
            )
    return fold(graph)


def _scale_and_shift(layer: Layer, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(g, t) such that the layer computes x * g + t, each of shape (1,) or (channels,); None for any other layer."""
    operation = layer.operation
    if type(operation) is keras.layers.Rescaling:
        g, t = (np.atleast_1d(np.asarray(values, np.float64)) for values in (operation.scale, operation.offset))
    elif type(operation) is keras.layers.Normalization and not operation.invert:
        # The layer itself bounds the standard deviation from below in this way.
        sd = np.maximum(np.sqrt(np.asarray(operation.variance, np.float64)), keras.backend.epsilon())
        g, t = np.atleast_1d(1 / sd), np.atleast_1d(-np.asarray(operation.mean, np.float64) / sd)
    elif layer.class_name == "LayerScale" and len(layer.weights) == 1:
        g, t = layer.weights[0], np.zeros(1)
    else:
        return None
    if any(values.size not in (1, channels) or values.shape[:-1] != (1,) * (values.ndim - 1) for values in (g, t)):
        return None
    return g.reshape(-1), t.reshape(-1)
