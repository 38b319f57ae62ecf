"""TensorFlow functions that a tf_keras model calls on its tensors, in terms of `keras.ops`."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfdatafree.model.keras_model import is_input

# TensorFlow functions that tf_keras turns into layers when they are called on its symbolic tensors. Parameters have the names
# that TensorFlow gives them.
_FUNCTIONS: dict[str, Callable] = {
    "__operators__.add": lambda x, y: _sum(x, y),
    "__operators__.getitem": lambda tensor, slice_spec: tensor[_slices(slice_spec)],
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(t, clip_value_min, clip_value_max),
    "concat": lambda values, axis: ops.concatenate(values, axis),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "identity": lambda input: input,
    "math.add": lambda x, y: _sum(x, y),
    "math.divide": lambda x, y: ops.divide(x, y),
    "math.maximum": lambda x, y: ops.maximum(x, y),
    "math.minimum": lambda x, y: ops.minimum(x, y),
    "math.multiply": lambda x, y: ops.multiply(x, y),
    "math.reduce_max": lambda input_tensor, axis=None, keepdims=False: ops.max(input_tensor, axis, keepdims),
    "math.reduce_mean": lambda input_tensor, axis=None, keepdims=False: ops.mean(input_tensor, axis, keepdims),
    "math.reduce_sum": lambda input_tensor, axis=None, keepdims=False: ops.sum(input_tensor, axis, keepdims),
    "math.sigmoid": lambda x: ops.sigmoid(x),
    "math.subtract": lambda x, y: ops.subtract(x, y),
    "math.tanh": lambda x: ops.tanh(x),
    "math.truediv": lambda x, y: ops.divide(x, y),
    "nn.relu": lambda features: ops.relu(features),
    "nn.relu6": lambda features: ops.relu6(features),
    "nn.silu": lambda features: ops.silu(features),
    "nn.softmax": lambda logits, axis=-1: ops.softmax(logits, -1 if axis is None else axis),
    "reshape": lambda tensor, shape, name=None: _reshaped(tensor, shape),
    "squeeze": lambda input, axis=None, name=None, squeeze_dims=None: ops.squeeze(
        input, squeeze_dims if axis is None else axis
    ),
    "transpose": lambda a, perm=None, name=None, conjugate=False: ops.transpose(a, perm),
    "cast": lambda x, dtype: ops.cast(x, tf.as_dtype(dtype).name),
    "image.resize": lambda images, size, method="bilinear", preserve_aspect_ratio=False, antialias=False: _resized(
        images, size, method, preserve_aspect_ratio, antialias
    ),
    "linalg.matmul": lambda a, b, transpose_a=False, transpose_b=False: _product(a, b, transpose_a, transpose_b),
    "math.abs": lambda x: ops.abs(x),
    "math.argmax": lambda input, axis=None, output_type=None: ops.argmax(input, 0 if axis is None else axis),
    "math.argmin": lambda input, axis=None, output_type=None: ops.argmin(input, 0 if axis is None else axis),
    "math.equal": lambda x, y: ops.equal(x, y),
    "math.exp": lambda x: ops.exp(x),
    "math.greater": lambda x, y: ops.greater(x, y),
    "math.greater_equal": lambda x, y: ops.greater_equal(x, y),
    "math.l2_normalize": lambda x, axis=None, epsilon=1e-12: ops.multiply(
        x, ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis, keepdims=True), epsilon))
    ),
    "math.less": lambda x, y: ops.less(x, y),
    "math.less_equal": lambda x, y: ops.less_equal(x, y),
    "math.log": lambda x: ops.log(x),
    "math.logical_and": lambda x, y: ops.logical_and(x, y),
    "math.logical_not": lambda x: ops.logical_not(x),
    "math.logical_or": lambda x, y: ops.logical_or(x, y),
    "math.negative": lambda x: ops.negative(x),
    "math.not_equal": lambda x, y: ops.not_equal(x, y),
    "math.pow": lambda x, y: ops.square(x) if np.array_equal(y, 2) else ops.power(x, y),
    "math.reduce_min": lambda input_tensor, axis=None, keepdims=False: ops.min(input_tensor, axis, keepdims),
    "math.rsqrt": lambda x: ops.rsqrt(x),
    "math.softplus": lambda features: ops.softplus(features),
    "math.sqrt": lambda x: ops.sqrt(x),
    "math.square": lambda x: ops.square(x),
    "nn.avg_pool2d": lambda input, ksize, strides, padding, data_format="NHWC": ops.average_pool(
        _channels_last(input, data_format), _two(ksize), _two(strides), padding.lower()
    ),
    "nn.bias_add": lambda value, bias, data_format="NHWC": _sum(_channels_last(value, data_format), bias),
    "nn.conv2d": lambda input, filter=None, strides=1, padding="VALID", use_cudnn_on_gpu=None, **options: _convolution(
        input, options.pop("filters", filter), strides, padding, **options
    ),
    "nn.convolution": lambda input, filters, strides=1, padding="VALID", data_format="NHWC", dilations=1: _convolution(
        input, filters, strides, padding, data_format, dilations
    ),
    "nn.depthwise_conv2d": lambda input, filter, strides, padding, rate=None, data_format="NHWC", dilations=None: (
        _depthwise(_channels_last(input, data_format), filter, strides, padding, dilations if rate is None else rate)
    ),
    "nn.depth_to_space": lambda input, block_size, data_format="NHWC": _depth_to_space(
        _channels_last(input, data_format), block_size
    ),
    "nn.elu": lambda features: ops.elu(features),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate),
    "nn.leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, alpha),
    "nn.max_pool2d": lambda input, ksize, strides, padding, data_format="NHWC": ops.max_pool(
        _channels_last(input, data_format), _two(ksize), _two(strides), padding.lower()
    ),
    "nn.selu": lambda features: ops.selu(features),
    "nn.softplus": lambda features: ops.softplus(features),
    "nn.space_to_depth": lambda input, block_size, data_format="NHWC": _space_to_depth(
        _channels_last(input, data_format), block_size
    ),
    "pad": lambda tensor, paddings, mode="CONSTANT", name=None, constant_values=0: _padded(
        tensor, paddings, mode, constant_values
    ),
    "reverse": lambda tensor, axis: ops.flip(tensor, axis),
    "split": lambda value, num_or_size_splits, axis=0: ops.split(
        value,
        num_or_size_splits if np.ndim(num_or_size_splits) == 0 else np.cumsum(num_or_size_splits)[:-1].tolist(),
        axis,
    ),
    "stack": lambda values, axis=0: ops.stack(values, axis),
    "tile": lambda input, multiples: ops.tile(input, tuple(multiples)),
    "where": lambda condition, x, y: ops.where(condition, x, y),
}


def keras_function(name: str) -> Callable | None:
    """What computes `tf.<name>` in Keras 3, with TensorFlow's names for parameters; None if it is not known."""
    return _FUNCTIONS.get(name.removeprefix("compat.v1.").removesuffix("_v2"))


def _is_constant(value: Any) -> bool:
    return not isinstance(value, keras.KerasTensor)


def _sum(x: Any, y: Any) -> Any:
    """A vector with a value per channel is a shift, which can be folded into the layer before it, if there is one.

    At an input it stays an addition: a Rescaling there would be taken for one of 8-bit values.
    """
    if _is_constant(x) or not _is_constant(y) or is_input(x):
        return ops.add(x, y)
    if np.shape(y) == tuple(x.shape[-1:]) and len(x.shape) > 1:
        return keras.layers.Rescaling(1.0, np.asarray(y, np.float32).tolist(), dtype=x.dtype)(x)
    return ops.add(x, y)


def _product(a: Any, b: Any, transpose_a: bool, transpose_b: bool) -> Any:
    if not _is_constant(a) and _is_constant(b) and np.ndim(b) == 2 and not transpose_a:
        kernel = np.swapaxes(b, 0, 1) if transpose_b else b
        return _with_kernel(keras.layers.Dense(np.shape(kernel)[1], use_bias=False, dtype=a.dtype), a, kernel)
    return ops.matmul(ops.swapaxes(a, -1, -2) if transpose_a else a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def _convolution(
    x: Any, filters: Any, strides: Any, padding: Any, data_format: str = "NHWC", dilations: Any = 1
) -> Any:
    if not _is_constant(filters) or np.ndim(filters) != 4:
        raise TypeError("its filters are no constant of four axes")
    *window, inputs, outputs = np.shape(filters)
    layer = keras.layers.Conv2D(
        outputs,
        window,
        _two(strides),
        padding.lower(),
        dilation_rate=_two(dilations),
        groups=x.shape[-1] // inputs,
        use_bias=False,
        data_format="channels_last",
        dtype=x.dtype,
    )
    return _with_kernel(layer, _channels_last(x, data_format), filters)


def _depthwise(x: Any, filters: Any, strides: Any, padding: Any, dilations: Any) -> Any:
    if not _is_constant(filters):
        raise TypeError("its filters are no constant")
    *window, _, multiplier = np.shape(filters)
    layer = keras.layers.DepthwiseConv2D(
        window,
        _two(strides),
        padding.lower(),
        multiplier,
        dilation_rate=_two(1 if dilations is None else dilations),
        use_bias=False,
        data_format="channels_last",
        dtype=x.dtype,
    )
    return _with_kernel(layer, x, filters)


def _with_kernel(layer: keras.layers.Layer, x: Any, kernel: Any) -> Any:
    result = layer(x)
    layer.set_weights([np.asarray(kernel)])
    return result


def _channels_last(tensor: Any, data_format: str) -> Any:
    if data_format not in ("NHWC", None):
        raise TypeError(f"the channels are first ({data_format})")
    return tensor


def _two(sizes: Any) -> tuple[int, int]:
    """(height, width) of 1, 2 or 4 numbers, as TensorFlow takes them."""
    sizes = np.atleast_1d(sizes).tolist()
    return tuple(sizes[1:3] if len(sizes) == 4 else sizes * (2 // len(sizes)))


def _padded(tensor: Any, paddings: Any, mode: str, value: Any) -> Any:
    paddings, mode = np.asarray(paddings).tolist(), mode.lower()
    return (
        ops.pad(tensor, paddings, mode, constant_values=value)
        if mode == "constant"
        else ops.pad(tensor, paddings, mode)
    )


def _reshaped(tensor: Any, shape: Any) -> Any:
    """A first axis of one is the batch, where the others hold a whole example: converters write models for one example."""
    sizes = np.asarray(shape).tolist() if _is_constant(shape) else shape
    if isinstance(sizes, list) and sizes[0] == 1 and None not in tensor.shape[1:]:
        if math.prod(sizes[1:]) == math.prod(tensor.shape[1:]):
            sizes = [-1, *sizes[1:]]
    return ops.reshape(tensor, sizes)


def _resized(images: Any, size: Any, method: Any, keep_ratio: bool, antialias: bool) -> Any:
    if keep_ratio:
        raise TypeError("it keeps the aspect ratio")
    method = getattr(method, "value", method)
    method = {0: "bilinear", 1: "nearest", 2: "bicubic"}.get(method, method)
    return ops.image.resize(
        images, tuple(np.asarray(size).tolist()), method, antialias=antialias, data_format="channels_last"
    )


def _depth_to_space(x: Any, block: int) -> Any:
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height, width, block, block, channels // block**2))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height * block, width * block, channels // block**2))


def _space_to_depth(x: Any, block: int) -> Any:
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height // block, block, width // block, block, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height // block, width // block, block**2 * channels))


def _slices(specification: Any) -> Any:
    """The index that tf_keras recorded, with a dict for each slice."""
    if isinstance(specification, (list, tuple)):
        return tuple(_slices(part) for part in specification)
    if isinstance(specification, dict):
        return slice(specification["start"], specification["stop"], specification["step"])
    return specification
