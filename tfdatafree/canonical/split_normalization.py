"""Splits normalizations by the input's own moments into the elementary operations that an integer runtime computes them with.

c = x - mean(x),   v = mean(c * c),   y = c * rsqrt(v + epsilon),   gamma * y + beta
so that the function is unchanged, and every tensor of the file is a tensor of the graph, with a range of its own.

    LayerNormalization         over its axes
    GroupNormalization         over the positions and the channels of a group; x is (positions, groups, channels) meanwhile
    RMSNormalization           c = x
    UnitNormalization          c = x, a sum in place of the mean, and max(v, epsilon^2) in place of v + epsilon
    per_image_standardization  of tf.image, over an image of n values, with max(v, 1 / n) in place of v + epsilon

Keras computes GroupNormalization as x r + (beta - mean r), the small difference of two large values where the mean is larger than
the deviation. Here the mean is subtracted first, so that 8 bits hold every part.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfdatafree.canonical.parts import put_in_place
from tfdatafree.model.graph import Graph, Layer, TensorSpec
from tfdatafree.model.rewrite import Rewrite

_UNIT_EPSILON = 1e-12


def split_normalization(graph: Graph) -> Rewrite:
    """The same function (within float rounding) without these layers. Those whose input has no static shape stay."""
    graph = graph.copy()
    for name in [node.name for node in graph.nodes]:
        node = graph.node(name)
        if len(node.inputs) != 1:
            continue
        layer, spec = graph.layer_of(node), graph.specs[node.inputs[0]]
        build = _BUILDERS.get(type(layer.operation)) or (_standardized if _standardizes(layer.operation) else None)
        if build is _group and layer.operation.axis % len(spec.shape) != len(spec.shape) - 1:
            continue  # groups of rows, not of channels
        if build is None or None in spec.shape[1:] or "float" not in spec.dtype:
            continue
        parts = _Parts()
        x = keras.Input(spec.shape[1:], dtype=spec.dtype)
        model = keras.Model(x, build(parts, layer, spec, x))
        put_in_place(graph, node, model, parts.labels)
    return Rewrite(graph=graph)


class _Parts:
    """Applies operations and notes what each computes."""

    def __init__(self):
        self.labels: list[str] = []

    def add(self, label: str, result: Any) -> Any:
        self.labels.append(label)
        return result

    def normalized(
        self,
        x: Any,
        axes: list[int],
        stabilize: Callable[[Any], Any],
        *,
        centre: bool = True,
        total: bool = False,
        times: Any = None,
    ) -> Any:
        """c * rsqrt(stabilize(v)), where v is the mean (or sum, if `total`) of the squares of c over `axes`.

        Args:
            centre: c is x without its mean, not x itself.
            times: What is multiplied in place of c.
        """
        dtype, c = x.dtype, x
        if centre:
            mean = self.add("mean", ops.mean(x, axis=axes, keepdims=True))
            c = self.add("centred", keras.layers.Subtract(dtype=dtype)([x, mean]))
        square = self.add("square", keras.layers.Multiply(dtype=dtype)([c, c]))
        v = self.add("variance", (ops.sum if total else ops.mean)(square, axis=axes, keepdims=True))
        root = self.add("rsqrt", ops.rsqrt(self.add("stabilized", stabilize(v))))
        return self.add("normalized", keras.layers.Multiply(dtype=dtype)([c if times is None else times, root]))

    def scaled(self, y: Any, scale: np.ndarray | None, offset: np.ndarray | None, shape: list[int]) -> Any:
        scale = np.ones(shape, np.float32) if scale is None else scale.reshape(shape)
        offset = np.zeros(shape, np.float32) if offset is None else offset.reshape(shape)
        return self.add("scale", keras.layers.Rescaling(scale, offset, dtype=y.dtype)(y))


def _axes(axis: Any, rank: int) -> list[int]:
    return sorted({int(a) % rank for a in np.atleast_1d(axis)})


def _weight_shape(spec: TensorSpec, axes: list[int]) -> list[int]:
    rank = len(spec.shape)
    return [spec.size(axis) if axis in axes else 1 for axis in range(min(axes), rank)]


def _layer(parts: _Parts, layer: Layer, spec: TensorSpec, x: Any) -> Any:
    operation, axes = layer.operation, _axes(layer.operation.axis, len(spec.shape))
    # With `rms_scaling`, Keras multiplies x itself by rsqrt of its variance, and adds nothing.
    alone = bool(getattr(operation, "rms_scaling", False))
    y = parts.normalized(x, axes, lambda v: v + operation.epsilon, times=x if alone else None)
    beta = None if alone else layer.weight("beta")
    return parts.scaled(y, layer.weight("gamma"), beta, _weight_shape(spec, axes))


def _group(parts: _Parts, layer: Layer, spec: TensorSpec, x: Any) -> Any:
    operation, shape = layer.operation, [spec.size(axis) for axis in range(1, len(spec.shape))]
    groups, channels = int(operation.groups), spec.size(-1)
    apart = (math.prod(shape[:-1]), groups, channels // groups)
    grouped = parts.add("grouped", keras.layers.Reshape(apart, dtype=x.dtype)(x))
    y = parts.normalized(grouped, [1, 3], lambda v: v + operation.epsilon)
    y = parts.add("ungrouped", keras.layers.Reshape(shape, dtype=x.dtype)(y))
    return parts.scaled(y, layer.weight("gamma"), layer.weight("beta"), [channels])


def _rms(parts: _Parts, layer: Layer, spec: TensorSpec, x: Any) -> Any:
    operation, axes = layer.operation, _axes(layer.operation.axis, len(spec.shape))
    y = parts.normalized(x, axes, lambda v: v + operation.epsilon, centre=False)
    return parts.scaled(y, layer.weight("scale"), None, _weight_shape(spec, axes))


def _unit(parts: _Parts, layer: Layer, spec: TensorSpec, x: Any) -> Any:
    axes = _axes(layer.operation.axis, len(spec.shape))
    return parts.normalized(x, axes, lambda v: ops.maximum(v, float(_UNIT_EPSILON**2)), centre=False, total=True)


def _standardizes(operation: Any) -> bool:
    function = getattr(operation, "function", None)
    return isinstance(operation, keras.layers.Lambda) and function is tf.image.per_image_standardization


def _standardized(parts: _Parts, layer: Layer, spec: TensorSpec, x: Any) -> Any:
    axes = list(range(len(spec.shape) - 3, len(spec.shape)))
    least = 1 / math.prod(spec.size(axis) for axis in axes)
    return parts.normalized(x, axes, lambda v: ops.maximum(v, least))


_BUILDERS: dict[type, Callable] = {
    keras.layers.LayerNormalization: _layer,
    keras.layers.GroupNormalization: _group,
    keras.layers.RMSNormalization: _rms,
    keras.layers.UnitNormalization: _unit,
}
