"""Splits variances and deviations of keras.ops into elementary operations, and a division by a root into a product.

    var(x)          =  mean(c * c),   c = x - mean(x)
    std(x)          =  sqrt(var(x))
    moments(x)      =  mean(x), var(x)
    normalize(x)    =  x * min(rsqrt(sum(x * x)), 1 / epsilon)                                           (of order 2)
    x / sqrt(y)     =  x * rsqrt(y)
so that the function is unchanged, and a normalization that a user wrote by hand has the form of the layers that
`split_normalization.py` splits. TFLite's integer divisions fail where a divisor rounds to zero, so they would stay in float.
"""

import dataclasses
from typing import Any

import keras
from keras import ops

from tfdatafree.canonical.parts import put_in_place
from tfdatafree.model.graph import Graph, Layer, Ref, TensorSpec
from tfdatafree.model.layer import weightless
from tfdatafree.model.rewrite import Rewrite

_DIVISIONS = ("TrueDivide", "Divide")


def split_moments(graph: Graph) -> Rewrite:
    """The same function (within float rounding) without these operations. Moments over the batch stay."""
    graph = graph.copy()
    for name in [node.name for node in graph.nodes]:
        node = graph.node(name)
        layer = graph.layer_of(node)
        if not _is_operation(layer) or len(node.inputs) != 1:
            continue
        spec = graph.specs[node.inputs[0]]
        x = keras.Input(spec.shape[1:], dtype=spec.dtype)
        parts = _parts_of(layer, spec, x)
        if parts is not None:
            put_in_place(graph, node, keras.Model(x, parts))
    _multiply_by_roots(graph)
    return Rewrite(graph=graph)


def _is_operation(layer: Layer) -> bool:
    return type(layer.operation).__module__.split(".")[0] == "keras" and not isinstance(
        layer.operation, keras.layers.Layer
    )


def _parts_of(layer: Layer, spec: TensorSpec, x: Any) -> Any:
    """What the operation computes of `x`, by elementary operations; None for any other operation."""
    operation, name = layer.operation, layer.class_name
    axes = _axes(getattr(operation, "axes" if name == "Moments" else "axis", None), len(spec.shape))
    if axes is None or "float" not in spec.dtype:
        return None
    if name == "Normalize":
        if operation.order != 2:
            return None
        total = ops.sum(keras.layers.Multiply(dtype=x.dtype)([x, x]), axis=axes, keepdims=True)
        root = ops.rsqrt(ops.maximum(total, float(operation.epsilon or keras.config.epsilon()) ** 2))
        return keras.layers.Multiply(dtype=x.dtype)([x, root])
    if name not in ("Var", "Std", "Moments"):
        return None
    keepdims = bool(operation.keepdims)
    mean = ops.mean(x, axis=axes, keepdims=True)
    centred = keras.layers.Subtract(dtype=x.dtype)([x, mean])
    square = keras.layers.Multiply(dtype=x.dtype)([centred, centred])
    variance = ops.mean(square, axis=axes, keepdims=keepdims)
    if name == "Moments":
        return [mean if keepdims else ops.mean(x, axis=axes, keepdims=False), variance]
    return variance if name == "Var" else ops.sqrt(variance)


def _axes(axis: Any, rank: int) -> list[int] | None:
    """The axes, in order; None for all axes, and for axes with the batch among them."""
    if axis is None:
        return None
    axes = sorted({int(a) % rank for a in ([axis] if isinstance(axis, int) else axis)})
    return None if 0 in axes else axes


def _multiply_by_roots(graph: Graph) -> None:
    """Writes x / sqrt(y) as x * rsqrt(y) where nothing else reads the root."""
    producers, consumers = graph.producers(), graph.consumers()
    for node in list(graph.nodes):
        if graph.layer_of(node).class_name not in _DIVISIONS or len(node.inputs) != 2 or node.kwargs:
            continue
        root = producers.get(node.inputs[1])
        if root is None or graph.layer_of(root).class_name != "Sqrt" or not _is_operation(graph.layer_of(root)):
            continue
        if consumers[root.output] == [node] and root.output not in graph.outputs:
            x = keras.Input(graph.specs[root.output].shape[1:], dtype=graph.specs[root.output].dtype)
            put_in_place(graph, root, keras.Model(x, ops.rsqrt(x)))
            key = graph.fresh_name(f"{node.name}_multiply")
            graph.layers[key] = weightless(keras.layers.Multiply, name=key, dtype=graph.specs[node.output].dtype)
            factors = [Ref(tensor) for tensor in node.inputs]
            graph.replace(node, dataclasses.replace(node, layer=key, args=(factors,), kwargs={}))
