"""Global settings of Keras neither change what is done with a model, nor are they changed."""

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import random_inputs, randomized

import tfdatafree
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.fold_scales import fold_scales
from tfdatafree.canonical.form import canonical_form
from tfdatafree.model.graph import Graph


def model() -> keras.Model:
    """One layer for each kind of layer that passes create."""
    x = inputs = keras.Input((8, 8, 4))
    x = L.BatchNormalization()(x)
    x = L.SeparableConv2D(4, 3, activation="silu", padding="same")(x)
    x = L.Add()([x, inputs, L.ReLU()(x)])
    x = L.LayerNormalization()(L.Conv2D(4, 3, activation="softmax", use_bias=False)(x))
    x = L.BatchNormalization()(L.LeakyReLU()(x))
    return randomized(keras.Model(inputs, L.Dense(3, activation="softmax")(L.AveragePooling2D(6)(x))))


@pytest.fixture
def unusual_state():
    before = (keras.config.dtype_policy(), keras.config.floatx(), keras.config.image_data_format())
    keras.config.set_dtype_policy("mixed_float16")
    keras.config.set_floatx("float64")
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_dtype_policy(before[0])
    keras.config.set_floatx(before[1])
    keras.config.set_image_data_format(before[2])


def state() -> tuple:
    return keras.config.dtype_policy().name, keras.config.floatx(), keras.config.image_data_format()


def passed(source: keras.Model) -> keras.Model:
    return fold_scales(fold(canonical_form(Graph.from_keras(source)).graph).graph).graph.to_keras()


@pytest.fixture
def usual():
    source = model()
    return source, random_inputs(source), passed(source)


def test_passes_make_the_same_layers_whatever_the_settings_are(usual, unusual_state):
    source, inputs, wanted = usual
    found = passed(source)
    assert [layer.get_config() for layer in found.layers] == [layer.get_config() for layer in wanted.layers]
    np.testing.assert_array_equal(found(inputs[0]), wanted(inputs[0]))


@pytest.fixture
def usual_file():
    source = model()
    return source, tfdatafree.compress(source, input_range=(-1, 1), verbose=0).tflite


@pytest.mark.slow
def test_the_file_is_the_same_and_the_settings_stay(usual_file, unusual_state):
    source, wanted = usual_file
    keras.config.set_image_data_format("channels_last")  # Keras' own Rescaling obeys it at each call
    before, drawn = state(), np.random.get_state()[1].copy()
    assert tfdatafree.compress(source, input_range=(-1, 1), verbose=0).tflite == wanted
    assert state() == before
    np.testing.assert_array_equal(np.random.get_state()[1], drawn)
