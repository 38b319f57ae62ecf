"""Splits LayerNormalization into the elementary operations that an integer runtime computes it with.

c = x - mean(x),   v = mean(c * c),   y = c * rsqrt(v + epsilon),   gamma * y + beta
so that the function is unchanged, and every tensor of the file is a tensor of the graph, with a range of its own.
"""

import dataclasses

import keras
import numpy as np

from tfdatafree.model.graph import Graph, Layer, Node, TensorSpec
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
            _replace(graph, node, Graph.from_keras(_elementary(layer, graph.specs[node.inputs[0]])))
    return Rewrite(graph=graph)


def _elementary(layer: Layer, spec: TensorSpec) -> keras.Model:
    rank = len(spec.shape)
    axes = [int(axis) % rank for axis in np.atleast_1d(layer.operation.axis)]
    x = keras.Input(spec.shape[1:], dtype=spec.dtype)
    centred = keras.layers.Subtract(dtype=spec.dtype)([x, keras.ops.mean(x, axis=axes, keepdims=True)])
    variance = keras.ops.mean(keras.layers.Multiply(dtype=spec.dtype)([centred, centred]), axis=axes, keepdims=True)
    y = keras.layers.Multiply(dtype=spec.dtype)([centred, keras.ops.rsqrt(variance + layer.operation.epsilon)])
    shape = [spec.size(axis) if axis in axes else 1 for axis in range(min(axes), rank)]
    gamma, beta = (layer.weight(key) for key in ("gamma", "beta"))
    scale = np.ones(shape, np.float32) if gamma is None else gamma.reshape(shape)
    offset = np.zeros(shape, np.float32) if beta is None else beta.reshape(shape)
    return keras.Model(x, keras.layers.Rescaling(scale, offset, dtype=spec.dtype)(y))


def _replace(graph: Graph, node: Node, parts: Graph) -> None:
    """Puts the nodes of `parts`, a graph with one input and one output, in place of `node`."""
    parts.redirect(parts.inputs[0], node.inputs[0])
    added = []
    for part, label in zip(list(parts.nodes), _LABELS, strict=True):
        # Keras numbers operations over the whole process, so the names that it gave here could change from run to run.
        key = graph.fresh_name(f"{node.name}_{label}")
        graph.layers[key] = parts.layer_of(part)
        last = part.output in parts.outputs
        name, tensor = (node.name, node.output) if last else (key, key)
        graph.specs[tensor] = graph.specs[node.output] if last else parts.specs[part.output]
        parts.redirect(part.output, tensor)
        added.append(dataclasses.replace(parts.node(part.name), name=name, layer=key, outputs=(tensor,)))
    graph.replace(node, *added)
