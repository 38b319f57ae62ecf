"""Makes a graph whose gradients TensorFlow computes safely.

Its gradient of a transposed convolution with regard to the kernel may write beyond its memory if the kernel is smaller than the
stride. Zeros behind the kernel, up to the size of the stride, change nothing: they stand where no input reaches.
"""

import keras
from keras import ops

from tfdatafree.model.graph import Graph, Layer


def differentiable(graph: Graph) -> Graph:
    """The same function of the same weights, for use under a gradient tape."""
    graph = graph.copy()
    for key, layer in graph.layers.items():
        transposed = type(layer.operation) in (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)
        if transposed and layer.operation.output_padding is None and any(_missing(layer.operation)):
            graph.layers[key] = Layer(_widened(layer.operation), layer.weights)
    return graph


def _missing(operation) -> list[int]:
    """How many rows and columns the kernel lacks to be as large as the stride."""
    return [max(stride - size, 0) for size, stride in zip(operation.kernel_size, operation.strides, strict=True)]


def _widened(operation):
    def call(inputs):
        kernel = ops.pad(operation.kernel, [*([0, missing] for missing in _missing(operation)), [0, 0], [0, 0]])
        outputs = ops.conv_transpose(
            inputs,
            kernel,
            strides=list(operation.strides),
            padding=operation.padding,
            dilation_rate=operation.dilation_rate,
            data_format=operation.data_format,
        )
        if operation.use_bias:
            outputs = outputs + ops.reshape(operation.bias, [1] * (len(outputs.shape) - 1) + [-1])
        return operation.activation(outputs) if operation.activation is not None else outputs

    widened = object.__new__(type(operation))  # it shares the variables, whose values come with the graph
    widened.__dict__.update(operation.__dict__)
    widened.__dict__["call"] = call
    return widened
