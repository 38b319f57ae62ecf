"""The weights of a student that are trained, and how far a step may move each.

A step is a part of the size of what it moves, channel by channel:

    kernel: rms(w) / sqrt(n)         w: the output channel's n weights that are not zero
    gamma: |gamma| / sqrt(c),        bias, beta: rms(f) / sqrt(c)         f: one of the c channels of the teacher's feature

so that channels of any scale learn alike: folding leaves some channels of a layer a thousand times as large as others. The first
steps of an adaptive optimizer have one size for all weights. Where n of them agree, their sum moves sqrt(n) times as far as with
random signs. The division takes this back, so that no step of size 1 moves a feature much farther than it is large.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.model.kernels import find_layout
from tfdatafree.model.quantizer_layer import Quantization
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.recovery.straight_through import straight_through

_TRAINED = ("kernel", "depthwise_kernel", "bias", "gamma", "beta")
# Examples that the sizes of features are measured on.
_MEASURED = 8

# Layer, and the place of the weight in it.
Place = tuple[str, int]


@dataclass(frozen=True)
class Parameter:
    """A weight that is trained.

    Attributes:
        values: What it is at the start, zero outside the mask.
        size: How far a step of size 1 moves it; broadcasts with `values`.
        mask: float32, 1 where it may be other than zero; None for all.
        grid: The grid that it lies on; None for a float.
    """

    values: np.ndarray
    size: np.ndarray
    mask: np.ndarray | None = None
    grid: Quantizer | None = None


@dataclass(frozen=True)
class Bounds:
    """What training keeps.

    Attributes:
        masks: Layer -> mask of its kernel.
        grids: Layer -> grid of its kernel.
        is_trained: Whether the layer of this key may change.
    """

    masks: Mapping[str, np.ndarray]
    grids: Mapping[str, Quantizer]
    is_trained: Callable[[str], bool] = lambda key: True


def trained_parameters(student: Graph, sizes: Mapping[str, np.ndarray], bounds: Bounds) -> dict[Place, Parameter]:
    """Kernels, biases and BatchNorms' gamma and beta of the layers that are trained.

    Args:
        sizes: Layer -> rms of each channel of its feature, from `feature_sizes`.
    """
    parameters = {}
    for key, layer in student.layers.items():
        if not bounds.is_trained(key):
            continue
        for at, variable in enumerate(layer.operation.weights if layer.weights else ()):
            if variable.name not in _TRAINED or (find_layout(layer) is None and not is_batchnorm(layer)):
                continue
            values, mask, grid = layer.weights[at], None, None
            if "kernel" in variable.name:
                grid = bounds.grids.get(key)
                if key in bounds.masks:
                    mask = bounds.masks[key].astype(np.float32)
                    values = np.where(bounds.masks[key], values, 0).astype(np.float32)
            axes = _within_channel(layer, values)
            size = sizes.get(key, np.float32(0)) if variable.name in ("bias", "beta") else _rms(values, axes)
            # Number of terms that one output sums: a kernel sums its channel's weights, the next layer sums channels.
            terms = np.count_nonzero(values, axis=axes, keepdims=True) if axes else len(values)
            step = (size / np.sqrt(np.maximum(1, terms))).astype(np.float32)
            parameters[key, at] = Parameter(values, step, mask, grid)
    return parameters


def feature_sizes(
    student: Graph, teacher: Graph, pairs: Sequence[tuple[str, str]], inputs: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Layer -> rms of each channel of its feature in the teacher; the BatchNorm after a layer gets the same.

    Args:
        pairs: (feature of the student, of the teacher).
        inputs: As the teacher reads them. The first 8 are used.
    """
    batch = [tf.constant(array[:_MEASURED]) for array in inputs]
    features = values_of(teacher, batch, {tensor for _, tensor in pairs})
    sizes, producers = {}, student.producers()
    for of_student, of_teacher in pairs:
        node = producers[of_student]
        feature, layer = np.asarray(features[of_teacher]), student.layer_of(node)
        if is_batchnorm(layer):
            sizes[node.layer] = _channels_rms(feature, layer.operation.axis)
            node = producers[node.inputs[0]]
        sizes[node.layer] = _channels_rms(feature, -1)
    return sizes


def values_of(graph: Graph, inputs: Sequence[Any], tensors: set[str]) -> dict[str, Any]:
    """The values of the named tensors; only nodes that they need are executed. Gradients pass rounding straight through."""
    shortened = graph.up_to(sorted(tensors))

    def call(node: Node, live: Mapping[str, Any]) -> tuple:
        operation = shortened.operation_of(node)
        if isinstance(operation, Quantization):
            return (straight_through(live[node.inputs[0]], operation.quantizer),)
        return shortened.call(node, live)

    live = dict(zip(shortened.inputs, inputs, strict=True))
    for _, live in shortened.walk(inputs, call):
        pass
    return {tensor: live[tensor] for tensor in tensors}


def _rms(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Root mean square of the values that are not zero, along `axes`, which stay with length 1."""
    count = np.maximum(1, np.count_nonzero(values, axis=axes, keepdims=True))
    return np.sqrt(np.square(values, dtype=np.float64).sum(axis=axes, keepdims=True) / count).astype(np.float32)


def _channels_rms(feature: np.ndarray, axis: int) -> np.ndarray:
    return _rms(feature, tuple(set(range(feature.ndim)) - {axis % feature.ndim})).ravel()


def _within_channel(layer: Layer, values: np.ndarray) -> tuple[int, ...]:
    """Axes of a kernel along which the output channel is the same; () for a vector over channels."""
    layout = find_layout(layer)
    if layout is None or values.ndim == 1:
        return ()
    last = {"depthwise": (-2, -1), "transpose": (-2,)}.get(layout.kind, (-1,))
    return tuple(set(range(values.ndim)) - {axis % values.ndim for axis in last})
