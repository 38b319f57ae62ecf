"""Small classifiers that tools train themselves, and inputs that these were not trained on.

Data are scikit-learn's digits, or synthetic: each class has a smooth random pattern, which is moved, scaled and hidden in smooth
noise. The networks are of four kinds: plain convolutions without BatchNorm, convolutions with BatchNorm, separable ones with
ReLU6, and residual ones.
"""

import dataclasses

import numpy as np

_TRAINING, _OTHERS = 4000, 500
# Contrast of the pictures around their middle grey.
_CONTRAST = 0.15


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network to train: its `kind`, the number of `classes`, `noise` in its data, and their `shape`; None: digits."""

    kind: str
    classes: int
    noise: float
    epochs: int
    shape: tuple[int, ...] | None = None


NETWORKS = {
    "digits_bn": Trained("bn", 10, 0.0, 15),
    "digits_plain": Trained("plain", 10, 0.3, 15),
    "digits_separable": Trained("separable", 10, 0.15, 25),
    "pictures10_residual": Trained("residual", 10, 1.2, 8, (16, 16, 3)),
    "pictures40_bn": Trained("bn", 40, 0.7, 25, (16, 16, 3)),
    "pictures5_separable": Trained("separable", 5, 1.2, 25, (16, 16, 3)),
    "pictures20_plain": Trained("plain", 20, 1.5, 8, (16, 16, 3)),
    "signals12_bn": Trained("bn", 12, 0.6, 25, (64, 2)),
}


def make_data(network: Trained) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns inputs to train with, their labels, and other inputs, 0 to 1."""
    if network.shape is None:
        return _digits(network.noise)
    return _patterns(network.classes, network.noise, network.shape)


def train(network: Trained, x: np.ndarray, y: np.ndarray):
    """Returns the trained Keras model."""
    import keras

    keras.utils.set_random_seed(3)
    model = _build(x.shape[1:], network.classes, network.kind)
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=network.epochs, verbose=0)
    return model


def _digits(noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    random, found = np.random.default_rng(0), load_digits()
    x = (found.images / 16.0).astype(np.float32)[..., None]
    x = np.clip(x + noise * random.normal(size=x.shape), 0, 1).astype(np.float32)
    order = random.permutation(len(x))
    first, others = order[:-_OTHERS], order[-_OTHERS:]
    return x[first], found.target[first], x[others]


def _patterns(classes: int, noise: float, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from scipy.ndimage import gaussian_filter

    random, count, axes = np.random.default_rng(1), _TRAINING + _OTHERS, tuple(range(len(shape) - 1))

    def smooth(n: int) -> np.ndarray:
        return np.stack(
            [gaussian_filter(random.normal(size=shape), (1.5,) * (len(shape) - 1) + (0,)) for _ in range(n)]
        )

    patterns = smooth(classes)
    patterns /= patterns.std(axis=tuple(range(1, patterns.ndim)), keepdims=True)
    y = random.integers(classes, size=count)
    hidden = smooth(count)
    x = patterns[y] * random.uniform(0.5, 1.5, size=(count,) + (1,) * len(shape)) + noise * hidden / hidden.std()
    moves = random.integers(-2, 3, size=(count, 2))
    x = np.stack(
        [np.roll(example, tuple(move)[: len(axes)], axis=axes) for example, move in zip(x, moves, strict=True)]
    )
    x = np.clip(_CONTRAST * x + 0.5, 0, 1).astype(np.float32)
    return x[:_TRAINING], y[:_TRAINING], x[_TRAINING:]


def _build(shape: tuple[int, ...], classes: int, kind: str):
    import keras
    from keras import layers

    signal = len(shape) == 2
    convolution = layers.Conv1D if signal else layers.Conv2D

    def normalized(x, cap=None):
        return layers.ReLU(cap)(layers.BatchNormalization()(x))

    def block(x, filters, stride):
        if kind == "plain":
            return convolution(filters, 3, strides=stride, padding="same", activation="relu")(x)
        if kind == "separable":
            x = normalized(layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x), 6)
            return normalized(layers.Conv2D(filters, 1, use_bias=False)(x), 6)
        y = normalized(convolution(filters, 3, strides=stride, padding="same", use_bias=False)(x))
        if kind == "bn":
            return y
        y = layers.BatchNormalization()(convolution(filters, 3, padding="same", use_bias=False)(y))
        return layers.ReLU()(layers.Add()([y, convolution(filters, 1, strides=stride)(x)]))

    x = inputs = keras.Input(shape)
    if kind == "separable":
        x = normalized(layers.Conv2D(16, 3, padding="same", use_bias=False)(x), 6)
    for filters, stride in ((16, 1), (32, 2), (48, 2)):
        x = block(x, filters, stride)
    pooling = layers.GlobalAveragePooling1D() if signal else layers.GlobalAveragePooling2D()
    x = layers.Flatten()(x) if kind == "plain" else pooling(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x), name=kind)
