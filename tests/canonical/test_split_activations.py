import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tfdatafree import compress
from tfdatafree.canonical.split_activations import split_activations
from tfdatafree.model.graph import Graph

ACTIVATIONS = {
    "selu": L.Activation("selu"),
    "softplus": L.Activation("softplus"),
    "mish": L.Activation("mish"),
    "log_sigmoid": L.Activation("log_sigmoid"),
    "ELU": L.ELU(0.7),
    "celu": lambda x: ops.celu(x, 2.0),
    "ops.selu": ops.selu,
    "softsign": L.Activation("softsign"),
    "ops.softsign": ops.softsign,
}


def model(activation) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = L.BatchNormalization(gamma_initializer=keras.initializers.Constant(4.0))(L.Conv2D(8, 3)(image))
    return keras.Model(image, L.Conv2D(4, 3, name="last")(activation(x)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_function_is_kept_far_from_zero_too(name):
    graph = Graph.from_keras(model(ACTIVATIONS[name]))
    split = split_activations(graph).graph
    images = np.random.default_rng(0).normal(0, 5, (2, 8, 8, 3)).astype("float32")
    expected, found = graph.predict([images])[0], split.predict([images])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert len(split.nodes) > len(graph.nodes)


def test_a_square_is_a_product_which_has_an_integer_kernel():
    graph = Graph.from_keras(model(ops.square))
    split = split_activations(graph).graph
    images = [np.random.default_rng(0).normal(0, 5, (2, 8, 8, 3)).astype("float32")]
    np.testing.assert_array_equal(split.predict(images)[0], graph.predict(images)[0])
    names = [layer.class_name for layer in split.layers.values()]
    assert "Multiply" in names and "Square" not in names


def test_elu_itself_has_a_kernel_and_stays():
    graph = Graph.from_keras(model(L.ELU()))
    assert [node.name for node in split_activations(graph).graph.nodes] == [node.name for node in graph.nodes]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["selu", "mish", "softsign"])
def test_8_bits_hold_every_part(name):
    report = compress(model(ACTIVATIONS[name]), input_range=(-1, 1), verbose=0).report
    assert report.integer_only and report.outputs[0].sqnr_db > 20
