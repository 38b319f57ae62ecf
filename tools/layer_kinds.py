"""One small network for each kind of layer, with random weights: what a layer becomes in a file shows in the count of operators.

Each is a convolution, the layer, and a convolution on its result, so that nothing is at the file's edge.
"""

from collections.abc import Callable
from typing import Any

SIZE, _CHANNELS = 12, 8


def _layers() -> dict[str, Callable[[Any], Any]]:
    """{kind: function from a feature map (1, 12, 12, 8) to another}."""
    import keras
    from keras import layers as L
    from keras import ops

    def attended(x: Any) -> Any:
        y = L.Reshape((SIZE * SIZE, _CHANNELS))(x)
        return L.Reshape((SIZE, SIZE, _CHANNELS))(L.MultiHeadAttention(2, 4)(y, y))

    def excited(x: Any) -> Any:
        gate = L.Dense(_CHANNELS, "sigmoid")(L.Dense(4, "relu")(L.GlobalAveragePooling2D(keepdims=True)(x)))
        return L.Multiply()([x, gate])

    def shuffled(x: Any) -> Any:
        y = ops.transpose(ops.reshape(x, (-1, SIZE, SIZE, 2, _CHANNELS // 2)), (0, 1, 2, 4, 3))
        return ops.reshape(y, (-1, SIZE, SIZE, _CHANNELS))

    return {
        "upsampling 2, nearest": L.UpSampling2D(2),
        "upsampling 3, nearest": L.UpSampling2D(3),
        "upsampling 2x3, nearest": L.UpSampling2D((2, 3)),
        "upsampling 2, bilinear": L.UpSampling2D(2, interpolation="bilinear"),
        "upsampling 3, bilinear": L.UpSampling2D(3, interpolation="bilinear"),
        "resizing 12 to 17, nearest": L.Resizing(17, 17, interpolation="nearest"),
        "resizing 12 to 17, bilinear": L.Resizing(17, 17),
        "resizing 12 to 6, bilinear": L.Resizing(6, 6),
        "upsampling 1d": lambda x: L.Reshape((24, 12, _CHANNELS))(
            L.UpSampling1D(2)(L.Reshape((SIZE, SIZE * _CHANNELS))(x))
        ),
        "transposed 2": L.Conv2DTranspose(_CHANNELS, 3, strides=2, padding="same"),
        "transposed, valid": L.Conv2DTranspose(_CHANNELS, 2, strides=2, activation="relu"),
        "max pooling": L.MaxPooling2D(),
        "max pooling, same": L.MaxPooling2D(3, strides=2, padding="same"),
        "average pooling": L.AveragePooling2D(2),
        "average pooling, same": L.AveragePooling2D(3, strides=2, padding="same"),
        "global average": L.GlobalAveragePooling2D(keepdims=True),
        "global maximum": L.GlobalMaxPooling2D(keepdims=True),
        "batch normalization": L.BatchNormalization(),
        "layer normalization": L.LayerNormalization(),
        "group normalization": L.GroupNormalization(4),
        "unit normalization": L.UnitNormalization(),
        "RMS normalization": L.RMSNormalization(),
        "depthwise": L.DepthwiseConv2D(3, padding="same"),
        "depthwise, multiplier": L.DepthwiseConv2D(3, depth_multiplier=2),
        "separable": L.SeparableConv2D(_CHANNELS, 3, activation="relu"),
        "dilated": L.Conv2D(_CHANNELS, 3, dilation_rate=2, padding="same"),
        "depthwise, dilated": L.DepthwiseConv2D(3, dilation_rate=2, padding="same"),
        "grouped": L.Conv2D(_CHANNELS, 3, groups=2),
        "padding": lambda x: L.Conv2D(_CHANNELS, 3, strides=2)(L.ZeroPadding2D(((0, 1), (0, 1)))(x)),
        "padding, depthwise": lambda x: L.DepthwiseConv2D(3, strides=2)(L.ZeroPadding2D(((0, 1), (0, 1)))(x)),
        "cropping": L.Cropping2D(2),
        "convolution 1d": lambda x: L.Reshape((SIZE, SIZE, _CHANNELS))(
            L.Conv1D(_CHANNELS, 3, padding="same")(L.Reshape((SIZE * SIZE, _CHANNELS))(x))
        ),
        "ReLU": L.ReLU(),
        "ReLU6": L.ReLU(max_value=6),
        "leaky ReLU": L.LeakyReLU(),
        "PReLU": L.PReLU(shared_axes=(1, 2)),
        "ELU": L.ELU(),
        "swish": L.Activation("swish"),
        "hard swish": L.Activation("hard_swish"),
        "hard sigmoid": L.Activation("hard_sigmoid"),
        "GELU": L.Activation("gelu"),
        "mish": L.Activation("mish"),
        "softplus": L.Activation("softplus"),
        "sigmoid": L.Activation("sigmoid"),
        "tanh": L.Activation("tanh"),
        "softmax": L.Softmax(),
        "sum": lambda x: L.Add()([x, L.Conv2D(_CHANNELS, 1)(x)]),
        "sum of three": lambda x: L.Add()([x, L.Conv2D(_CHANNELS, 1)(x), L.Conv2D(_CHANNELS, 1)(x)]),
        "difference": lambda x: L.Subtract()([x, L.Conv2D(_CHANNELS, 1)(x)]),
        "product": lambda x: L.Multiply()([x, L.Conv2D(_CHANNELS, 1)(x)]),
        "average": lambda x: L.Average()([x, L.Conv2D(_CHANNELS, 1)(x)]),
        "maximum": lambda x: L.Maximum()([x, L.Conv2D(_CHANNELS, 1)(x)]),
        "concatenation": lambda x: L.Concatenate()([x, L.Conv2D(4, 1)(x)]),
        "squeeze and excite": excited,
        "attention": attended,
        "channel shuffle": shuffled,
        "rescaling": L.Rescaling(0.5, offset=0.1),
        "dense on maps": L.Dense(_CHANNELS, "relu"),
        "dropout": keras.Sequential([L.Dropout(0.3), L.SpatialDropout2D(0.2), L.GaussianNoise(0.1)]),
        "slices": lambda x: x[:, ::2, ::2],
        "split": lambda x: ops.add(*ops.split(x, 2, axis=-1)),
    }


def kinds() -> list[str]:
    """Names of all kinds."""
    return list(_layers())


def build(kind: str, seed: int) -> Any:
    """The network of this kind."""
    import keras
    from keras import layers as L

    keras.utils.set_random_seed(seed)
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = L.Conv2D(_CHANNELS, 3, padding="same", name="before")(image)
    return keras.Model(image, L.Conv2D(4, 1, name="after")(_layers()[kind](x)), name="network")
