"""Trains the demo network and writes tfdatafree/demo/digits.keras; about half a minute on two cores.

    python tools/train_demo.py
    python tools/train_demo.py --rewrite

Run it with the oldest Keras that tfdatafree supports (`setup.py` names it): an older Keras cannot read the files of a newer one.
`--rewrite` keeps the weights and saves them again with the Keras that is installed.

The network is small. It has what makes real mobile networks hard to compress: BatchNorm after every convolution, ReLU6,
depthwise convolutions, a residual sum and an inverted bottleneck.
"""

import os
import tempfile
import zipfile

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from keras import layers

from tfdatafree import demo

flags.DEFINE_string("output", str(demo.MODEL_PATH), "Where to write the model.")
flags.DEFINE_integer("epochs", 40, "Passes over the training images.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of the initial weights and the order of the images.")
flags.DEFINE_boolean("rewrite", False, "Take the weights of the file that is there; train nothing.")

_SHIFT = 1  # pixels; training images move by up to this much, which adds about 1 % of accuracy
_BATCH = 32
_RATE = 5e-3  # of Adam, falling to 0 along a cosine


def build(seed: int) -> keras.Model:
    """Returns the untrained network: (8, 8, 1) in [0, 1] -> softmax of 10."""
    seeds = iter(range(seed * 1000, (seed + 1) * 1000))

    def initializer():
        return keras.initializers.HeNormal(seed=next(seeds))

    def batchnorm(x, name, activation=None):
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
        return activation(x) if activation else x

    def conv(x, filters, size, name, activation=None):
        x = layers.Conv2D(filters, size, padding="same", use_bias=False, kernel_initializer=initializer(), name=name)(x)
        return batchnorm(x, name, activation)

    def depthwise(x, strides, name, activation):
        x = layers.DepthwiseConv2D(
            3, strides, padding="same", use_bias=False, depthwise_initializer=initializer(), name=name
        )(x)
        return batchnorm(x, name, activation)

    def relu(name):
        return layers.ReLU(name=name)

    def relu6(name):
        return layers.ReLU(6.0, name=name)

    inputs = keras.Input((8, 8, 1), name="image")
    stem = conv(inputs, 16, 3, "stem", relu("stem_relu"))
    x = depthwise(stem, 1, "block1_depthwise", relu6("block1_relu6"))
    x = conv(x, 16, 1, "block1_project")
    x = layers.Add(name="block1_add")([stem, x])
    x = conv(x, 64, 1, "block2_expand", relu6("block2_expand_relu6"))
    x = depthwise(x, 2, "block2_depthwise", relu6("block2_depthwise_relu6"))
    x = conv(x, 24, 1, "block2_project")
    x = conv(x, 64, 1, "head", relu("head_relu"))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(10, activation="softmax", kernel_initializer=initializer(), name="classes")(x)
    return keras.Model(inputs, outputs, name="digits")


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the images, (n, height, width, 1), each moved by up to `_SHIFT` pixels; pixels that move in are 0."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)))
    corners = rng.integers(0, 2 * _SHIFT + 1, size=(len(images), 2))
    return np.stack([image[r : r + height, c : c + width] for image, (r, c) in zip(padded, corners, strict=True)])


def train(epochs: int, seed: int) -> keras.Model:
    """Returns the trained network, uncompiled; the same arguments give the same weights."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(seed)
    (images, labels), _ = demo.split_digits()
    model = build(seed)
    steps = -(-len(labels) // _BATCH) * epochs
    rate = keras.optimizers.schedules.CosineDecay(_RATE, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    for epoch in range(epochs):
        history = model.fit(shifted(images, rng), labels, batch_size=_BATCH, verbose=0)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3}  loss {history.history['loss'][0]:.4f}")
    # A compiled model is saved with its optimizer, which holds two more values per weight.
    trained = build(seed)
    trained.set_weights(model.get_weights())
    return trained


def rewritten() -> keras.Model:
    """Returns the demo network that is there, built again by the Keras that is installed, which may be older."""
    model = build(seed=0)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(demo.MODEL_PATH) as archive:
        model.load_weights(archive.extract("model.weights.h5", folder))
    return model


def main(_):
    model = rewritten() if flags.FLAGS.rewrite else train(flags.FLAGS.epochs, flags.FLAGS.seed)
    _, (images, labels) = demo.split_digits()
    accuracy = np.mean(model.predict(images, verbose=0).argmax(axis=1) == labels)
    model.save(flags.FLAGS.output)
    size = os.path.getsize(flags.FLAGS.output)
    print(f"Keras {keras.__version__}, {model.count_params()} parameters, {size} bytes: {flags.FLAGS.output}")
    print(f"held-out accuracy {accuracy:.4f}")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(main)
