"""Layers with some of their channels removed: weights, configuration and constants that are cut along channels."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfdatafree.model.batchnorm import is_batchnorm, on_channels
from tfdatafree.model.cap_layer import ChannelCap
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of, layout_of
from tfdatafree.model.layer import Layer, new_layer, weightless
from tfdatafree.model.node import Node, Ref

# Layers without a kernel that have weights, of which `shrink_layer` knows how to remove channels.
CUTTABLE = (keras.layers.BatchNormalization, keras.layers.PReLU)


def shrink_layer(graph: Graph, node: Node, stay: Mapping[str, np.ndarray], after: Graph) -> Layer:
    """The layer of `node` with only the channels that stay. `after` is the graph with its new shapes."""
    layer, operation = graph.layer_of(node), graph.operation_of(node)
    inside = stay[node.inputs[0]]
    outside = stay[node.output]
    input_shape = after.specs[node.inputs[0]].shape
    shape = after.specs[node.output].shape
    if find_layout(layer) is not None:
        return _smaller_kernel(layer, inside, outside, input_shape)
    if is_batchnorm(layer) and on_channels(graph, node):
        return _rebuilt(layer, input_shape, {}, lambda values: values[inside])
    if isinstance(operation, keras.layers.PReLU):
        return _rebuilt(layer, input_shape, {}, lambda values: _along_last(values, inside))
    if isinstance(operation, keras.layers.Rescaling):
        scale, offset = (_along_last(np.asarray(value), inside) for value in (operation.scale, operation.offset))
        if np.ndim(scale) == 0 and np.ndim(offset) == 0:
            return layer
        return weightless(keras.layers.Rescaling, scale, offset, name=operation.name)
    if isinstance(operation, ChannelCap):
        return weightless(ChannelCap, caps=_along_last(operation.caps, inside), name=operation.name)
    if isinstance(operation, keras.layers.Reshape):
        return weightless(keras.layers.Reshape, shape[1:], name=operation.name)
    if layer.class_name == "Reshape":
        return Layer(type(operation)((-1 if shape[0] is None else shape[0], *shape[1:])))
    if layer.class_name == "Pad":
        pad_before, pad_after = operation.pad_width[-1]
        last = (int(outside[:pad_before].sum()), int(outside[len(outside) - pad_after :].sum()))
        return Layer(type(operation)((*operation.pad_width[:-1], last), mode=operation.mode))
    return layer


def _smaller_kernel(layer: Layer, inside: np.ndarray, outside: np.ndarray, input_shape: tuple) -> Layer:
    kernel, kind, config = kernel_of(layer), layout_of(layer).kind, {}
    if kind == "depthwise":
        kernel = kernel[..., inside, :]
    elif kind == "transpose":
        kernel = kernel[..., outside, :][..., inside]
    else:
        kernel = kernel[..., inside, :][..., outside]
    if kind != "depthwise":
        config = {"units" if kind == "dense" else "filters": int(outside.sum())}
    bias = layer.weight("bias")
    weights = {} if bias is None else {"bias": bias[outside]}
    name = "kernel" if layer.weight("kernel") is not None else "depthwise_kernel"
    return new_layer(
        type(layer.operation), {**layer.operation.get_config(), **config}, input_shape, **weights, **{name: kernel}
    )


def _rebuilt(layer: Layer, input_shape: tuple, changed: Mapping[str, Any], cut) -> Layer:
    """A layer of the same class for `input_shape`. `cut` takes the channels that stay out of each of its weights."""
    built = new_layer(type(layer.operation), {**layer.operation.get_config(), **changed}, input_shape)
    return Layer(built.operation, tuple(cut(values) for values in layer.weights))


def _along_last(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The part of `values` where `mask` is true along the last axis; all of it where one value is for all channels."""
    return values[..., mask] if np.ndim(values) and np.shape(values)[-1] == len(mask) else values


def shrink_constants(node: Node, mask: np.ndarray | None) -> Node:
    """`node` with only the channels that stay in its array arguments."""
    if mask is None:
        return node

    def cut(value: Any) -> Any:
        if isinstance(value, (list, tuple)) and any(isinstance(item, Ref) for item in value):
            return type(value)(cut(item) for item in value)
        plain = isinstance(value, (np.ndarray, list, tuple)) or hasattr(value, "numpy")
        if not plain or isinstance(value, Ref) or np.asarray(value).dtype.kind not in "fiu":
            return value
        return _along_last(np.asarray(value), mask) if len(mask) > 1 else value

    is_operation = any(isinstance(arg, (np.ndarray, list, tuple)) or hasattr(arg, "numpy") for arg in
                       (*node.args, *node.kwargs.values()))  # fmt: skip
    if not is_operation:
        return node
    return dataclasses.replace(
        node, args=tuple(map(cut, node.args)), kwargs={key: cut(value) for key, value in node.kwargs.items()}
    )
