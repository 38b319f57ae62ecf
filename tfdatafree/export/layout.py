"""Between Keras' and TFLite's order of kernel axes."""

import numpy as np

from tfdatafree.export.kernels import Kernel
from tfdatafree.model.kernels import Layout
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.quantization.integer_kernel import IntegerKernel


def to_tflite(kernel: np.ndarray, layout: Layout) -> np.ndarray:
    """The Keras kernel with its axes in TFLite's order, axes of length one aside.

    conv (*spatial, in, out) -> (out, *spatial, in);  depthwise (*spatial, in, m) -> (*spatial, in * m);
    transpose (*spatial, out, in) -> (out, *spatial, in);  dense (in, out) -> (out, in).
    """
    if layout.kind == "depthwise":
        return kernel.reshape(*kernel.shape[:-2], -1)
    return np.moveaxis(kernel, -2 if layout.kind == "transpose" else -1, 0)


def kernel_for(integers: IntegerKernel, keras_values: np.ndarray, layout: Layout, constant: np.ndarray) -> Kernel:
    """`integers` in the shape of the file's float weight tensor `constant`.

    Args:
        keras_values: The integers in the Keras kernel's shape.
    """
    values = to_tflite(keras_values, layout).reshape(constant.shape)
    quantizer = integers.quantizer
    axis = None if quantizer.channel_axis is None else (constant.ndim - 1 if layout.kind == "depthwise" else 0)
    return Kernel(values, Quantizer(quantizer.scale, 0, quantizer.bits, axis, narrow_range=True))
