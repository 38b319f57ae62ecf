"""Every row of the table of integer operators as a function that the converter turns into this one operator."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfdatafree.export.emit import IntegerModel, quantize_file
from tfdatafree.export.plan import Spec
from tfdatafree.numerics.range import Range
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.runtime import Runner

MAP = (1, 6, 6, 4)
ROW = (1, 8)


@dataclass(frozen=True)
class Case:
    """A function that the converter turns into one operator, and the range of its inputs."""

    function: Callable
    low: float = -2.0
    high: float = 2.0
    shapes: tuple[tuple[int, ...], ...] = (MAP,)
    second: tuple[float, float] | None = None

    def inputs(self) -> list[np.ndarray]:
        random = np.random.default_rng(0)
        spans = [(self.low, self.high), self.second or (self.low, self.high)]
        return [random.uniform(*span, shape).astype("float32") for span, shape in zip(spans, self.shapes, strict=False)]

    def convert(self) -> bytes:
        function = tf.function(self.function, autograph=False)
        concrete = function.get_concrete_function(*(tf.TensorSpec(shape) for shape in self.shapes))
        return tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()


def weights(*shape: int) -> tf.Tensor:
    """Weights on an 8-bit grid. The largest of each output channel is the largest of the grid."""
    values = np.random.default_rng(1).integers(-127, 128, shape)
    values[(0,) * (len(shape) // 2)] = 127
    return tf.constant(values / 256, tf.float32)


def convolution(x):
    return tf.nn.conv2d(x, weights(3, 3, 4, 5), 1, "SAME") + np.float32([0.5, -0.25, 0.0, 1.0, -1.0])


def transposed(x):
    return tf.nn.bias_add(
        tf.nn.conv2d_transpose(x, weights(3, 3, 5, 4), (1, 12, 12, 5), 2, "SAME"), np.float32([1] * 5)
    )


def depthwise(x):
    return tf.nn.depthwise_conv2d(x, weights(3, 3, 4, 2), [1] * 4, "SAME") + np.float32([0.5, -0.25] * 4)


def unary(function: Callable, low: float = -2.0, high: float = 2.0) -> Case:
    return Case(function, low, high)


def binary(function: Callable, second: tuple[float, float] = (-1.0, 3.0), shape: tuple[int, ...] = MAP) -> Case:
    return Case(function, shapes=(shape, shape), second=second)


def reduce(function: Callable) -> Case:
    return Case(lambda x: function(x, [1, 2]))


BORDER = [[0, 0], [1, 1], [1, 1], [0, 0]]
CHOICE = np.arange(math.prod(MAP)).reshape(MAP) % 3 == 0
SLOPE = np.float32([[[-0.1, -0.2, -0.3, -0.4]]])

CASES = {
    "CONV_2D": unary(convolution),
    "DEPTHWISE_CONV_2D": unary(depthwise),
    "FULLY_CONNECTED": Case(lambda x: x @ weights(8, 3) + np.float32([0.5, -1.0, 0.0]), shapes=(ROW,)),
    "TRANSPOSE_CONV": unary(transposed),
    "ADD": binary(tf.add),
    "SUB": binary(tf.subtract),
    "MUL": binary(tf.multiply),
    "BATCH_MATMUL": Case(tf.matmul, shapes=((1, 2, 6, 4), (1, 2, 4, 5))),
    "SQUARED_DIFFERENCE": binary(tf.math.squared_difference),
    "MEAN": reduce(tf.reduce_mean),
    "SUM": reduce(tf.reduce_sum),
    "REDUCE_PROD": Case(lambda x: tf.reduce_prod(x, [1]), 0.5, 1.5, ((1, 3, 4),)),
    "ABS": unary(tf.abs),
    "RELU": unary(tf.nn.relu),
    "RELU6": unary(tf.nn.relu6, -4.0, 8.0),
    "RELU_N1_TO_1": unary(lambda x: tf.maximum(-1.0, tf.minimum(x, 1.0))),
    "LEAKY_RELU": unary(lambda x: tf.nn.leaky_relu(x, 0.1)),
    "PRELU": unary(lambda x: tf.nn.relu(x) + SLOPE * tf.nn.relu(-x)),
    "ELU": unary(tf.nn.elu),
    "GELU": unary(lambda x: tf.nn.gelu(x, approximate=False), -4.0, 4.0),
    "HARD_SWISH": unary(lambda x: x * tf.nn.relu6(x + 3.0) * (1 / 6), -4.0, 4.0),
    "EXP": unary(tf.exp),
    "LOG": unary(tf.math.log, 0.3, 4.0),
    "SQRT": unary(tf.sqrt, 0.3, 4.0),
    "RSQRT": unary(tf.math.rsqrt, 0.3, 4.0),
    "LOGISTIC": unary(tf.sigmoid, -6.0, 6.0),
    "SOFTMAX": unary(tf.nn.softmax, -4.0, 4.0),
    "TANH": unary(tf.tanh),
    "L2_NORMALIZATION": unary(lambda x: tf.nn.l2_normalize(x, -1)),
    "LOG_SOFTMAX": unary(tf.nn.log_softmax),
    "MAX_POOL_2D": unary(lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME")),
    "AVERAGE_POOL_2D": unary(lambda x: tf.nn.avg_pool2d(x, 3, 1, "SAME")),
    "REDUCE_MAX": reduce(tf.reduce_max),
    "REDUCE_MIN": reduce(tf.reduce_min),
    "RESHAPE": unary(lambda x: tf.reshape(x, (1, -1))),
    "TRANSPOSE": unary(lambda x: tf.transpose(x, (0, 2, 1, 3))),
    "PAD": unary(lambda x: tf.pad(x, BORDER)),
    "PADV2": unary(lambda x: tf.pad(x, BORDER, constant_values=-1.0)),
    "MIRROR_PAD": unary(lambda x: tf.pad(x, BORDER, "REFLECT")),
    "SLICE": unary(lambda x: tf.slice(x, [0, 1, 1, 0], [1, 4, 4, 4])),
    "STRIDED_SLICE": unary(lambda x: x[:, ::2, 1::2]),
    "SPLIT": unary(lambda x: tf.split(x, 2, -1)),
    "SPLIT_V": unary(lambda x: tf.split(x, [1, 3], -1)),
    "UNPACK": Case(lambda x: tf.unstack(x, axis=1), shapes=((1, 3, 4),)),
    "GATHER": unary(lambda x: tf.gather(x, [2, 0, 3], axis=3)),
    "GATHER_ND": unary(lambda x: tf.gather_nd(x, [[0, 1, 2], [0, 3, 3]])),
    "TILE": unary(lambda x: tf.tile(x, [1, 2, 2, 1])),
    "BROADCAST_TO": Case(lambda x: tf.broadcast_to(x, MAP), shapes=((1, 1, 1, 4),)),
    "REVERSE_V2": unary(lambda x: tf.reverse(x, [1])),
    "SPACE_TO_DEPTH": unary(lambda x: tf.nn.space_to_depth(x, 2)),
    "DEPTH_TO_SPACE": unary(lambda x: tf.nn.depth_to_space(x, 2)),
    "SPACE_TO_BATCH_ND": unary(lambda x: tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]])),
    "BATCH_TO_SPACE_ND": Case(lambda x: tf.batch_to_space(x, [2, 2], [[0, 0], [0, 0]]), shapes=((4, 3, 3, 2),)),
    "RESIZE_BILINEAR": unary(lambda x: tf.image.resize(x, (12, 12))),
    "RESIZE_NEAREST_NEIGHBOR": unary(lambda x: tf.image.resize(x, (12, 12), "nearest")),
    "CONCATENATION": binary(lambda x, y: tf.concat([x, y], -1)),
    "PACK": binary(lambda x, y: tf.stack([x, y], 1), shape=ROW),
    "MAXIMUM": binary(tf.maximum),
    "MINIMUM": binary(tf.minimum),
    "SELECT": binary(lambda x, y: tf.compat.v1.where(tf.constant(CHOICE), x, y)),
    "SELECT_V2": binary(lambda x, y: tf.where(tf.constant(CHOICE[..., :1]), x, y)),
    "TOPK_V2": unary(lambda x: list(tf.math.top_k(x, 2))),
    "ARG_MAX": unary(lambda x: tf.argmax(x, -1, tf.int32)),
    "ARG_MIN": unary(lambda x: tf.argmin(x, -1, tf.int32)),
    "EQUAL": binary(tf.equal),
    "NOT_EQUAL": binary(tf.not_equal),
    "GREATER": binary(tf.greater),
    "GREATER_EQUAL": binary(tf.greater_equal),
    "LESS": binary(tf.less),
    "LESS_EQUAL": binary(tf.less_equal),
}


def quantized(case: Case, bits: int, **options) -> tuple[bytes, IntegerModel]:
    """(float file, integer file) of the case. The range of each tensor is measured on the case's inputs."""
    content = case.convert()
    exact = Runner(content, keep_all=True)
    exact.run(case.inputs())
    ranges = {}
    for index in range(len(File.parse(content).tensors)):
        value = exact.value(index)
        if value is not None and value.size and value.dtype == np.float32:
            ranges[index] = Range(min(value.min(), 0.0), max(value.max(), 0.0))
    edge = "int8" if bits == 8 else "int16"
    return content, quantize_file(File.parse(content), Spec(ranges, activation_bits=bits, edge_dtype=edge, **options))
