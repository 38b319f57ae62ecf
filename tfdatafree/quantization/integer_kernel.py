"""The integers of a layer's kernel, in the orders of axes of Keras and TFLite."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import Layout, from_output_last, from_tflite, kernel_of, layout_of, output_last, to_tflite
from tfdatafree.numerics.affine import Quantizer


@dataclass(frozen=True, eq=False)
class IntegerKernel:
    """Integers of one kernel and their grid.

    Holds for every instance: `matrix` has the order of `model.kernels.output_last`; the scales of `grid` run along its axis 1,
    or there is one scale for all weights.

    Attributes:
        matrix: Integers (rows, output channels).
        grid: Their scale and zero point.
        layout: Layout of the layer's kernel.
        shape: The kernel's shape in Keras.
    """

    matrix: np.ndarray
    grid: Quantizer
    layout: Layout
    shape: tuple[int, ...]

    @classmethod
    def of(cls, layer: Layer, matrix: np.ndarray, grid: Quantizer) -> "IntegerKernel":
        """Integers (rows, output channels) of the kernel of `layer`."""
        return cls(matrix, grid, layout_of(layer), kernel_of(layer).shape)

    @classmethod
    def from_float(cls, layer: Layer, grid: Quantizer) -> "IntegerKernel":
        """Integers of the layer's float kernel, which lies on `grid`. The grid's axis is one of the Keras kernel."""
        along_outputs = dataclasses.replace(grid, channel_axis=None if grid.channel_axis is None else 1)
        return cls.of(layer, along_outputs.quantize(output_last(kernel_of(layer), layout_of(layer))), along_outputs)

    @classmethod
    def from_tflite(cls, layer: Layer, values: np.ndarray, grid: Quantizer) -> "IntegerKernel":
        """Integers of the layer's kernel from a TFLite file. The axis of `grid` is the one in the file."""
        along_outputs = dataclasses.replace(grid, channel_axis=None if grid.channel_axis is None else 1)
        keras_values = from_tflite(values, kernel_of(layer).shape, layout_of(layer))
        return cls.of(layer, output_last(keras_values, layout_of(layer)), along_outputs)

    @property
    def keras(self) -> np.ndarray:
        """The integers in the Keras kernel's shape."""
        return from_output_last(self.matrix, self.shape, self.layout)

    @property
    def float_kernel(self) -> np.ndarray:
        """The float32 values of the integers, in the Keras kernel's shape."""
        return from_output_last(self.grid.dequantize(self.matrix), self.shape, self.layout)

    @property
    def keras_grid(self) -> Quantizer | None:
        """The grid along an axis of the Keras kernel.

        None if scales run along two axes, as in a depthwise kernel with several inputs and a multiplier.
        """
        if self.grid.channel_axis is None:
            return self.grid
        axis = {"transpose": -2, "depthwise": -1 if self.shape[-2] == 1 else -2}.get(self.layout.kind, -1)
        if self.shape[axis] != np.size(self.grid.scale):
            return None
        return dataclasses.replace(self.grid, channel_axis=axis % len(self.shape))

    def tflite(self, shape: tuple[int, ...]) -> tuple[np.ndarray, Quantizer]:
        """(integers in the file's `shape`, grid along the file's axis); symmetric, as TFLite requires."""
        values = to_tflite(self.keras, self.layout).reshape(shape)
        outputs = len(shape) - 1 if self.layout.kind == "depthwise" else 0
        axis = None if self.grid.channel_axis is None else outputs
        return values, Quantizer(self.grid.scale, 0, self.grid.bits, axis, narrow_range=True)


def kernel_grids(graph: Graph, kernels: Mapping[str, IntegerKernel]) -> dict[str, Quantizer | None]:
    """Layer -> the grid of its kernel in `graph`, along an axis of the Keras kernel.

    None if there is no such grid: scales run along two axes, or an equalized kernel has factors on both sides.
    """
    grids: dict[str, Quantizer | None] = {}
    for key, integers in kernels.items():
        grid, kernel = integers.keras_grid, kernel_of(graph.layers[key])
        grids[key] = grid if grid is not None and np.array_equal(grid(kernel), kernel) else None
    return grids
