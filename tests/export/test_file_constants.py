import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from tiny_models import randomized

import tfdatafree

MATRIX = np.linspace(-1, 1, 36 * 2).reshape(1, 36, 2).astype("float32")


def model(function) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    return randomized(keras.Model(inputs, function(L.Conv2D(4, 3)(inputs))))


def soft_argmax(x):
    x = L.Softmax(axis=1)(L.Reshape((36, 4))(x))
    return L.Flatten()(ops.matmul(ops.transpose(x, (0, 2, 1)), MATRIX))


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        soft_argmax,
        lambda x: ops.matmul(ops.transpose(L.Reshape((36, 4))(x), (0, 2, 1)), MATRIX),
        lambda x: ops.where(x > 0.1, x, 0.5 * x),
        lambda x: x * ops.cast(x > 0, "float32"),
    ],
)
def test_products_with_constants_and_comparisons_are_written_as_they_are_simulated(function):
    source = model(function)
    inputs = np.random.default_rng(0).uniform(-1, 1, (16, 8, 8, 3)).astype("float32")
    compressed = tfdatafree.compress(source, input_range=(-1, 1), verbose=0)
    wanted = source.predict(inputs, verbose=0)
    noise = np.mean(np.square(compressed.predict(inputs) - wanted))
    assert 10 * np.log10(np.mean(np.square(wanted)) / noise) > 20
