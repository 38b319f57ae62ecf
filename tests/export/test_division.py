import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from tiny_models import randomized

import tfdatafree


@pytest.mark.slow
def test_a_division_by_values_of_the_network_holds_on_an_image_of_one_colour():
    inputs = keras.Input((8, 8, 3))
    low, high = (function(inputs, (1, 2, 3), keepdims=True) for function in (ops.min, ops.max))
    x = L.Conv2D(4, 3, activation="relu")((inputs - low) / (high - low + 1e-6))
    model = randomized(keras.Model(inputs, L.Conv2D(2, 1)(x)))
    compressed = tfdatafree.compress(model, input_range=(0, 1), verbose=0)
    assert any(name.startswith("DIV") for name in compressed.report.kept)
    black = np.zeros((1, 8, 8, 3), np.float32)
    noisy = np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 3)).astype("float32")
    for images in (black, noisy):
        wanted = model.predict(images, verbose=0)
        assert np.abs(compressed.predict(images) - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.slow
def test_the_root_of_a_deviation_that_divides_stays_in_float_too():
    image = keras.Input((6, 6, 3))
    x = L.Conv2D(4, 3)(image)
    axes = {"axis": (1, 2), "keepdims": True}
    model = keras.Model(image, L.Conv2D(2, 1)((x - ops.mean(x, **axes)) / (ops.std(x, **axes) + 1e-3)))
    kept = tfdatafree.compress(model, input_range=(-1, 1), verbose=0).report.kept
    assert {operator.split()[0] for operator in kept} == {"SQRT", "ADD", "DIV"}
