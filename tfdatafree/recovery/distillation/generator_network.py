"""The network that maps noise (and a class) to images.

    z [* embedding(y)] -> Dense -> h x w x width -> BatchNorm -> (x2, convolution, BatchNorm, LeakyReLU) until the image's size
      -> convolution to the image's channels -> tanh -> BatchNorm -> middle + quarter of the range * (...), clipped to the range

Pictures up to 64 px: two doublings with plain convolutions (Xu et al. 2020, GDFQ). Larger ones: as many doublings as lead from 8
px, with depthwise and 1x1 convolutions: plain ones would cost a hundred times the network itself. The last BatchNorm makes pixels
of unit variance. A quarter of the range is the usual standard deviation of pictures.
"""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.model.graph import Graph
from tfdatafree.recipe.distillation import ImageGenerator

# Pictures up to this size begin at a quarter of it, larger ones at `_FIRST` pixels.
_SMALL, _FIRST = 64, 8
_SLOPE = 0.2


def require_pictures(graph: Graph) -> tuple[int, ...]:
    """(height, width, channels) of the one input. Raises UnsupportedModelError where a generator cannot make it."""
    specs = [graph.specs[tensor] for tensor in graph.inputs]
    if len(specs) != 1 or len(specs[0].shape) != 4 or None in specs[0].shape[1:] or "float" not in specs[0].dtype:
        listed = ", ".join(f"{spec.shape[1:]} {spec.dtype}" for spec in specs)
        raise UnsupportedModelError(
            f"'{graph.name}' reads {listed}, and a generator makes one float picture (height, width, channels); use the method "
            "'matched', or give images."
        )
    return specs[0].example_shape


def build_generator(
    shape: Sequence[int], ends: tuple[float, float], options: ImageGenerator, *, classes: int, seed: int
) -> keras.Model:
    """A Keras model from (z, y) to images: z (n, latent) float, y (n,) int, which only a conditional one reads.

    Args:
        shape: (height, width, channels) of the images.
        ends: (low, high) of their values.
        classes: Number of classes; for a conditional generator.
    """
    height, width, channels = shape
    largest = max(height, width)
    doublings = 2 if largest <= _SMALL else max(1, math.ceil(math.log2(largest / _FIRST)))
    small = largest <= _SMALL
    seeds = iter(range(seed * 1000, seed * 1000 + 1000))

    def drawn() -> keras.Initializer:
        return keras.initializers.GlorotUniform(seed=next(seeds))

    noise, label = keras.Input((options.latent,), name="noise"), keras.Input((), dtype="int32", name="label")
    x = noise
    if options.conditional:
        start = keras.initializers.RandomNormal(stddev=1.0, seed=next(seeds))
        x = layers.Multiply()([x, layers.Embedding(classes, options.latent, embeddings_initializer=start)(label)])
    rows, columns = (math.ceil(size / 2**doublings) for size in (height, width))
    x = layers.Dense(rows * columns * options.width, kernel_initializer=drawn())(x)
    x = layers.BatchNormalization()(layers.Reshape((rows, columns, options.width))(x))
    for at in range(doublings):
        filters = options.width if at == 0 else max(8, options.width // 2 ** (at if small else (at + 1) // 2))
        x = layers.UpSampling2D(2)(x)
        if not small:
            x = layers.DepthwiseConv2D(3, padding="same", depthwise_initializer=drawn())(x)
        x = layers.Conv2D(filters, 3 if small else 1, padding="same", kernel_initializer=drawn())(x)
        x = layers.LeakyReLU(negative_slope=_SLOPE)(layers.BatchNormalization()(x))
    x = layers.Conv2D(channels, 3, padding="same", activation="tanh", kernel_initializer=drawn())(x)
    x = layers.BatchNormalization()(x[:, :height, :width, :])
    low, high = ends
    x = layers.Rescaling((high - low) / 4, (low + high) / 2)(x)
    return keras.Model([noise, label], keras.ops.clip(x, low, high), name="generator")


def draw_noise(n: int, latent: int, classes: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(z, y) for `n` images; the same for the same `seed`, (2,) int."""
    z = tf.random.stateless_normal((n, latent), seed)
    return z, tf.random.stateless_uniform((n,), seed + [0, 1], 0, max(1, classes), tf.int32)
