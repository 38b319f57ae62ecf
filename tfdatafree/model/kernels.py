"""Kernels of convolution and dense layers: their axes, and how they act on channel means and variances."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfdatafree.model.graph import Layer


@dataclass(frozen=True)
class Layout:
    """Kernel layout of a layer class: `rank` spatial axes, and then the axes that `kind` says.

    kind: "conv"       (*spatial, in / groups, out)
          "depthwise"  (*spatial, in, multiplier); output channel = in * multiplier_count + multiplier
          "transpose"  (*spatial, out, in)
          "dense"      (in, out)
    """

    kind: str
    rank: int


LAYOUTS = {
    "Conv1D": Layout("conv", 1),
    "Conv2D": Layout("conv", 2),
    "Conv3D": Layout("conv", 3),
    "DepthwiseConv1D": Layout("depthwise", 1),
    "DepthwiseConv2D": Layout("depthwise", 2),
    "Conv1DTranspose": Layout("transpose", 1),
    "Conv2DTranspose": Layout("transpose", 2),
    "Dense": Layout("dense", 0),
}


def find_layout(layer: Layer) -> Layout | None:
    """The kernel layout of `layer`; None for a layer without a kernel that this package compresses."""
    return LAYOUTS.get(layer.class_name)


def layout_of(layer: Layer) -> Layout:
    """The kernel layout of a layer that has a kernel. Raises KeyError for any other."""
    return LAYOUTS[layer.class_name]


def kernel_of(layer: Layer) -> np.ndarray:
    """The kernel as Keras stores it."""
    kernel = layer.weight("kernel")
    return layer.required_weight("depthwise_kernel") if kernel is None else kernel


def with_kernel(layer: Layer, kernel: np.ndarray) -> Layer:
    name = "kernel" if layer.weight("kernel") is not None else "depthwise_kernel"
    return layer.with_weights(**{name: kernel})


def output_last(kernel: np.ndarray, layout: Layout) -> np.ndarray:
    """The kernel as a matrix (rows, output channels). `from_output_last` undoes it."""
    if layout.kind == "transpose":
        kernel = np.swapaxes(kernel, -1, -2)
        return kernel.reshape(-1, kernel.shape[-1])
    if layout.kind == "depthwise":
        return kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1])
    return kernel.reshape(-1, kernel.shape[-1])


def from_output_last(matrix: np.ndarray, shape: tuple[int, ...], layout: Layout) -> np.ndarray:
    """The kernel with the Keras shape `shape` that `output_last` turned into `matrix`."""
    if layout.kind == "transpose":
        swapped = (*shape[:-2], shape[-1], shape[-2])
        return np.swapaxes(matrix.reshape(swapped), -1, -2)
    return matrix.reshape(shape)


def to_tflite(kernel: np.ndarray, layout: Layout) -> np.ndarray:
    """The Keras kernel with its axes in TFLite's order, without axes of length one.

    conv (*spatial, in, out) -> (out, *spatial, in);  depthwise (*spatial, in, m) -> (*spatial, in * m);
    transpose (*spatial, out, in) -> (out, *spatial, in);  dense (in, out) -> (out, in).
    """
    if layout.kind == "depthwise":
        return kernel.reshape(*kernel.shape[:-2], -1)
    return np.moveaxis(kernel, -2 if layout.kind == "transpose" else -1, 0)


def from_tflite(values: np.ndarray, shape: tuple[int, ...], layout: Layout) -> np.ndarray:
    """The kernel with the Keras shape `shape` that `to_tflite` turned into `values`, which may have more axes of length one."""
    if layout.kind == "depthwise":
        return values.reshape(shape)
    return from_output_last(np.moveaxis(values, 0, -1).reshape(-1, values.shape[0]), shape, layout)


def scale_inputs(kernel: np.ndarray, layout: Layout, factor: np.ndarray) -> np.ndarray:
    """The kernel that acts on x as `kernel` acts on x * factor; factor: (in,), for all groups together."""
    if layout.kind == "transpose":
        return kernel * factor
    rows = kernel.shape[-2]
    if len(factor) == rows:
        return kernel * factor[:, None]
    groups = len(factor) // rows
    return kernel * np.repeat(factor.reshape(groups, rows).T, kernel.shape[-1] // groups, axis=1)


def scale_outputs(kernel: np.ndarray, layout: Layout, factor: np.ndarray) -> np.ndarray:
    """The kernel with the output channels of `kernel` times factor; factor: (out,)."""
    return from_output_last(output_last(kernel, layout) * factor, kernel.shape, layout)


def input_channels(layer: Layer) -> int:
    """Channels that the layer reads, of all groups together."""
    kernel, kind = kernel_of(layer), layout_of(layer).kind
    if kind == "transpose":
        return kernel.shape[-1]
    return kernel.shape[-2] * (getattr(layer.operation, "groups", 1) if kind == "conv" else 1)


def largest_between_channels(layer: Layer) -> np.ndarray:
    """max|W| over the spatial axes: (groups, inputs per group, outputs per group). Each depthwise input is a group."""
    kernel, layout = kernel_of(layer), layout_of(layer)
    largest = np.abs(kernel).max(axis=tuple(range(layout.rank))) if layout.rank else np.abs(kernel)
    if layout.kind == "transpose":
        return largest.T[None]
    if layout.kind == "depthwise":
        return largest[:, None, :]
    groups = input_channels(layer) // largest.shape[0]
    return np.moveaxis(largest.reshape(largest.shape[0], groups, -1), 1, 0)


def mean_response(layer: Layer, kernel: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Mean of `kernel` applied to inputs of channel means `mean` (in,), away from the border; shape (out,)."""
    return _response(layer, kernel, mean)


def variance_response(layer: Layer, kernel: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Variance of `kernel` applied to independent inputs of channel variances `variance` (in,); shape (out,)."""
    return _response(layer, np.square(kernel), variance)


def summed_response(layer: Layer, kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What all rows of `kernel` together make of inputs with the channel values (in,); shape (out,).

    It is `mean_response`, but for transposed convolutions, of whose rows an output pixel sees only some.
    """
    response = _response(layer, kernel, values)
    return response * math.prod(layer.operation.strides) if layout_of(layer).kind == "transpose" else response


def _response(layer: Layer, kernel: np.ndarray, moment: np.ndarray) -> np.ndarray:
    layout = LAYOUTS[layer.class_name]
    summed = kernel.sum(axis=tuple(range(layout.rank)), dtype=np.float64) if layout.rank else kernel
    return _COMBINE[layout.kind](summed, np.asarray(moment, np.float64), layer)


def _conv(summed: np.ndarray, moment: np.ndarray, layer: Layer) -> np.ndarray:
    groups = getattr(layer.operation, "groups", 1)
    if groups == 1:
        # Unlike a matrix product, this makes no float64 copy of a large Dense kernel.
        return np.einsum("i,io->o", moment, summed)
    inputs, outputs = summed.shape
    grouped = summed.reshape(inputs, groups, outputs // groups)
    return np.einsum("gi,igo->go", moment.reshape(groups, inputs), grouped).reshape(outputs)


def _depthwise(summed: np.ndarray, moment: np.ndarray, layer: Layer) -> np.ndarray:
    return (summed * moment[:, None]).reshape(-1)


def _transpose(summed: np.ndarray, moment: np.ndarray, layer: Layer) -> np.ndarray:
    # With stride s, only one of s kernel positions per axis reaches an output pixel: this is the mean over the phases.
    return (summed @ moment) / math.prod(layer.operation.strides)


_COMBINE: dict[str, Callable] = {"conv": _conv, "dense": _conv, "depthwise": _depthwise, "transpose": _transpose}
