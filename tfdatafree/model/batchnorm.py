"""What a BatchNormalization computes, and what its statistics say about its output."""

import keras
import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of
from tfdatafree.model.layer import Layer, new_layer
from tfdatafree.model.node import Node


def is_batchnorm(layer: Layer) -> bool:
    return isinstance(layer.operation, keras.layers.BatchNormalization)


def variance_of(layer: Layer) -> np.ndarray:
    """What a BatchNorm divides by, squared: variance + epsilon, float64, shape (channels,)."""
    return layer.required_weight("moving_variance").astype(np.float64) + layer.operation.epsilon


def scale_and_shift(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """(g, t), float64, shape (channels,), such that bn(x) == g * x + t."""
    mean = layer.required_weight("moving_mean")
    g = 1.0 / np.sqrt(variance_of(layer))
    if layer.weight("gamma") is not None:
        g = g * layer.weight("gamma")
    t = -mean.astype(np.float64) * g
    if layer.weight("beta") is not None:
        t = t + layer.weight("beta")
    return g, t


def output_moments(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) of a BatchNorm's output over its training data, shape (channels,).

    mean = beta,  sd = |gamma| sqrt(v / (v + eps)),  which is less than |gamma| where the variance v is not large beside eps.
    """
    variance = layer.required_weight("moving_variance").astype(np.float64)
    gamma, beta = layer.weight("gamma"), layer.weight("beta")
    sd = np.sqrt(variance / (variance + layer.operation.epsilon))
    sd = sd if gamma is None else sd * np.abs(gamma)
    return np.zeros_like(sd) if beta is None else beta.astype(np.float64), sd


def on_channels(graph: Graph, node: Node) -> bool:
    """Whether the BatchNorm `node` normalizes the last axis of its input."""
    rank = len(graph.specs[node.inputs[0]].shape)
    axis = graph.operation_of(node).axis
    return axis in (-1, rank - 1)


def with_bias(layer: Layer, input_shape: tuple, bias: np.ndarray) -> Layer:
    """`layer` with this bias. A layer without bias is rebuilt with `use_bias=True`."""
    if layer.weight("bias") is not None:
        return layer.with_weights(bias=bias)
    config = {**layer.operation.get_config(), "use_bias": True}
    return new_layer(type(layer.operation), config, input_shape, kernel=kernel_of(layer), bias=bias)
