"""Splits LayerNormalization into the elementary operations that an integer runtime computes it with.

c = x - mean(x),   v = mean(c * c),   y = c * rsqrt(v + epsilon),   gamma * y + beta
so that the function is unchanged, and every tensor of the file is a tensor of the graph, with a range of its own.
"""

from typing import Any

import keras
import numpy as np

from tfdatafree.canonical.parts import put_in_place
from tfdatafree.model.graph import Graph, Layer, TensorSpec
from tfdatafree.model.rewrite import Rewrite

_LABELS = ("mean", "centred", "square", "variance", "stabilized", "rsqrt", "normalized", "scale")


def split_normalization(graph: Graph) -> Rewrite:
    """The same function (within float rounding) without LayerNormalization layers."""
    graph = graph.copy()
    for name in [node.name for node in graph.nodes]:
        node = graph.node(name)
        layer = graph.layer_of(node)
        if type(layer.operation) is keras.layers.LayerNormalization and not getattr(
            layer.operation, "rms_scaling", False
        ):
            put_in_place(graph, node, _elementary(layer, graph.specs[node.inputs[0]]), _LABELS)
    return Rewrite(graph=graph)


def _normalized(x: Any, axes: list[int], epsilon: float) -> Any:
    dtype = x.dtype
    centred = keras.layers.Subtract(dtype=dtype)([x, keras.ops.mean(x, axis=axes, keepdims=True)])
    variance = keras.ops.mean(keras.layers.Multiply(dtype=dtype)([centred, centred]), axis=axes, keepdims=True)
    return keras.layers.Multiply(dtype=dtype)([centred, keras.ops.rsqrt(variance + epsilon)])


def _elementary(layer: Layer, spec: TensorSpec) -> keras.Model:
    rank = len(spec.shape)
    axes = [int(axis) % rank for axis in np.atleast_1d(layer.operation.axis)]
    x = keras.Input(spec.shape[1:], dtype=spec.dtype)
    y = _normalized(x, axes, layer.operation.epsilon)
    shape = [spec.size(axis) if axis in axes else 1 for axis in range(min(axes), rank)]
    gamma, beta = (layer.weight(key) for key in ("gamma", "beta"))
    scale = np.ones(shape, np.float32) if gamma is None else gamma.reshape(shape)
    offset = np.zeros(shape, np.float32) if beta is None else beta.reshape(shape)
    return keras.Model(x, keras.layers.Rescaling(scale, offset, dtype=spec.dtype)(y))
