"""What Keras operations without a kernel do to channels, to values and to grids: the one table that every stage reads.

A row holds for a layer class, for the operation class of `keras.ops`, and for the function of an Activation layer. Layers with a
kernel are described in `kernels.py`, BatchNormalization in `batchnorm.py`. What is not listed is unknown, and stages that
must not change the function leave unknown operations alone.
"""

from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from tfdatafree.model.graph import Layer


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What is known of one operation. Channels are the last axis of a tensor.

    Attributes:
        no_op: It returns its input at inference.
        channels: What becomes of channels. None: this depends on how it is called, or is not known.
            "apart": Channel c of the output depends only on channel c of the one input, in the same way for all channels.
                Only parameters may differ between channels.
            "joined": The same for several inputs, or for an input and a constant.
            "mixed": Channel c of the output belongs to channel c of the input, but depends on other channels, too.
            "moved": Channel c of the output belongs to no particular channel of the input.
        values: Where the values of the output come from. None: they are computed, or it is not known.
            "same": They are the values of the input in the same order; only the shape changes.
            "reordered": They are the values of the input in another order.
            "selected": Each is a value of the input or zero; some values may be missing or be there several times.
        spatial: It works along the axes between the batch and the channels. One pixel stays one pixel with the same values.
        homogeneous: f(s x) = s f(x) for every s > 0, one per channel. (For ReLU, `Rectifier.homogeneous` says it.)
        squashes: It squashes a model's results into a built-in range and keeps their order, so that the results can be read
            before it.
        bounded: Its outputs lie in a built-in range.
        operator: The TFLite operator that the converter writes, where this operator restricts the grids of its tensors or the
            bits that it computes with. None: the grid of the output is free, and there are kernels of 8 and of 16 bits.
        takes_relu: The converter writes the operation and the ReLU after it as one operator.
        joins: Its output holds the values of its inputs beside each other, unchanged.
    """

    no_op: bool = False
    channels: Literal["apart", "joined", "mixed", "moved"] | None = None
    values: Literal["same", "reordered", "selected"] | None = None
    spatial: bool = False
    homogeneous: bool = False
    squashes: bool = False
    bounded: bool = False
    operator: str | None = None
    takes_relu: bool = False
    joins: bool = False


UNKNOWN = Operation()

# fmt: off
_ROWS: dict[str, Operation] = {
    # Nothing, at inference.
    "Dropout GaussianDropout AlphaDropout GaussianNoise ActivityRegularization":
        Operation(no_op=True),
    "linear":
        Operation(no_op=True, channels="apart"),
    "Identity":
        Operation(no_op=True, channels="apart", values="same", operator="RESHAPE"),
    # Elementwise functions of one tensor.
    "ReLU Relu relu":
        Operation(channels="apart"),
    "Relu6 relu6":
        Operation(channels="apart", bounded=True),
    "LeakyReLU LeakyRelu leaky_relu":
        Operation(channels="apart", homogeneous=True),
    "PReLU":
        Operation(channels="apart", homogeneous=True, operator="PRELU"),
    "ELU Elu elu":
        Operation(channels="apart", operator="ELU"),
    "HardSilu hard_silu":
        Operation(channels="apart", operator="HARD_SWISH"),
    "Sigmoid sigmoid":
        Operation(channels="apart", squashes=True, bounded=True, operator="LOGISTIC"),
    "Tanh tanh":
        Operation(channels="apart", squashes=True, bounded=True, operator="TANH"),
    "HardSigmoid hard_sigmoid":
        Operation(channels="apart", bounded=True),
    "Celu Gelu HardShrink HardTanh LogSigmoid Selu Silu SoftShrink Softplus Softsign SparsePlus Squareplus "
    "TanhShrink Threshold":
        Operation(channels="apart"),
    "celu exponential gelu hard_shrink hard_tanh log_sigmoid mish selu silu soft_shrink softplus softsign sparse_plus "
    "sparse_sigmoid squareplus tanh_shrink":
        Operation(channels="apart"),
    "Absolute Arctan Cast Ceil Clip Copy Cos Erf Exp Expm1 Floor Log Log1p Negative Reciprocal Round Rsqrt Sign Sin Sqrt "
    "Square StopGradient":
        Operation(channels="apart"),
    "Rescaling":
        Operation(channels="apart", takes_relu=True),
    "ChannelCap":
        Operation(channels="apart", operator="MINIMUM"),
    # Functions of all channels of one tensor.
    "Softmax softmax":
        Operation(channels="mixed", squashes=True, bounded=True, operator="SOFTMAX"),
    "LogSoftmax log_softmax":
        Operation(channels="mixed", bounded=True, operator="LOG_SOFTMAX"),
    "glu sparsemax LayerNormalization":
        Operation(channels="mixed"),
    # Arithmetic on several tensors, or on a tensor and a constant.
    "Add":
        Operation(channels="joined", homogeneous=True, takes_relu=True),
    "Subtract Multiply Divide":
        Operation(channels="joined", takes_relu=True),
    "TrueDivide Power":
        Operation(channels="joined"),
    "Average":
        Operation(channels="joined", homogeneous=True),
    "Maximum":
        Operation(channels="joined", homogeneous=True, operator="MAXIMUM"),
    "Minimum":
        Operation(channels="joined", operator="MINIMUM"),
    # Along the spatial axes.
    "MaxPooling1D MaxPooling2D":
        Operation(channels="apart", values="selected", spatial=True, homogeneous=True, operator="MAX_POOL_2D"),
    "GlobalMaxPooling1D GlobalMaxPooling2D":
        Operation(channels="apart", values="selected", spatial=True, homogeneous=True, operator="REDUCE_MAX"),
    "AveragePooling1D AveragePooling2D":
        Operation(channels="apart", spatial=True, homogeneous=True, operator="AVERAGE_POOL_2D"),
    "GlobalAveragePooling1D GlobalAveragePooling2D":
        Operation(channels="apart", spatial=True, homogeneous=True),
    "ZeroPadding1D ZeroPadding2D":
        Operation(channels="apart", values="selected", spatial=True, homogeneous=True, operator="PAD"),
    "Cropping1D Cropping2D":
        Operation(channels="apart", values="selected", spatial=True, homogeneous=True, operator="STRIDED_SLICE"),
    # Bilinear upsampling computes values. The grid of its output is that of its input, too (RESIZE_BILINEAR).
    "UpSampling2D":
        Operation(channels="apart", values="selected", spatial=True, homogeneous=True, operator="RESIZE_NEAREST_NEIGHBOR"),
    "UpSampling1D":
        Operation(channels="apart", values="selected", spatial=True, homogeneous=True, operator="TILE"),
    "AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D":
        Operation(channels="apart", spatial=True),
    "AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D":  # one pixel in several windows ends TensorFlow's process
        Operation(channels="apart", spatial=True),
    "MaxPooling3D GlobalMaxPooling3D AveragePooling3D GlobalAveragePooling3D ZeroPadding3D Cropping3D UpSampling3D":
        Operation(channels="apart", spatial=True),
    # Values that only move.
    "Reshape Flatten Squeeze ExpandDims":
        Operation(values="same", operator="RESHAPE"),
    "Permute Transpose":
        Operation(channels="moved", values="reordered", operator="TRANSPOSE"),
    "Moveaxis Swapaxes":
        Operation(channels="moved"),
    "RepeatVector":
        Operation(values="selected", operator="TILE"),
    "Pad":
        Operation(values="selected", operator="PAD"),
    "GetItem":
        Operation(values="selected", operator="STRIDED_SLICE"),
    "Slice":
        Operation(values="selected", operator="SLICE"),
    "Split":
        Operation(values="selected", operator="SPLIT"),
    # Several tensors put beside each other, or multiplied with each other.
    "Concatenate":
        Operation(operator="CONCATENATION", joins=True),
    "Stack":
        Operation(operator="PACK", joins=True),
    "Dot Matmul Einsum Attention":
        Operation(channels="moved"),
}
# fmt: on

OPERATIONS = {name: row for names, row in _ROWS.items() for name in names.split()}

_ACTIVATION_LAYERS = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
)


def operation_of(layer: Layer, *, by_name: bool = False) -> Operation:
    """What is known of the operation of `layer`. A subclass counts as the Keras class that it is derived from.

    Args:
        by_name: Believe that a function which is not Keras's own does what its name says. Not for stages that must not
            change the function of a model.
    """
    operation = layer.operation
    if isinstance(operation, keras.layers.Activation):
        name = getattr(operation.activation, "__name__", "")
        is_known = by_name or getattr(keras.activations, name, None) is operation.activation
        return OPERATIONS.get(name, UNKNOWN) if is_known else UNKNOWN
    for parent in type(operation).__mro__:
        if parent.__name__ in OPERATIONS and parent.__module__.split(".")[0] in ("keras", "tfdatafree"):
            # The layer Average averages tensors; the operation of keras.ops averages along axes.
            is_other = parent.__name__ == "Average" and not isinstance(operation, keras.layers.Layer)
            return UNKNOWN if is_other else OPERATIONS[parent.__name__]
    return UNKNOWN


def is_activation_layer(layer: Layer) -> bool:
    """Whether `layer` is of a Keras class for elementwise activations. An Activation layer may hold any other function, too."""
    return isinstance(layer.operation, _ACTIVATION_LAYERS)


@dataclass(frozen=True)
class Rectifier:
    """An activation of the ReLU family.

    f(x) = cap where x >= cap, else x where x > threshold, else slope * (x - threshold). cap None: there is none.
    """

    cap: float | None = None
    slope: float = 0.0
    threshold: float = 0.0

    @property
    def homogeneous(self) -> bool:
        """Whether f(s x) = s f(x) for every s > 0."""
        return self.cap is None and not self.threshold

    @property
    def is_clip(self) -> bool:
        """Whether f(x) = min(max(x, 0), cap)."""
        return not self.slope and not self.threshold


RELU, RELU6 = Rectifier(), Rectifier(cap=6.0)


def rectifier_of(operation: Any) -> Rectifier | None:
    """The parameters of a layer, function or operation called ReLU or ReLU6; None for any other operation."""
    if isinstance(operation, keras.layers.ReLU):
        return Rectifier(operation.max_value, operation.negative_slope, operation.threshold)
    if isinstance(operation, keras.layers.Activation):
        if operation.activation is keras.activations.relu:
            return RELU
        return RELU6 if operation.activation is keras.activations.relu6 else None
    return {"Relu": RELU, "Relu6": RELU6}.get(type(operation).__name__)


def cap_of(operation: Any) -> float | None:
    """m, if the operation is min(h(x), m) with m > 0 and h(s x) = s h(x) for s > 0; None for any other."""
    rectifier, cap = rectifier_of(operation), None
    if rectifier is not None and not rectifier.threshold:
        cap = rectifier.cap
    elif type(operation).__name__ == "Clip" and np.ndim(operation.x_max) == 0 and np.array_equal(operation.x_min, 0):
        cap = operation.x_max
    return float(cap) if cap is not None and cap > 0 else None
