import keras
import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.global_pooling import globalize_pooling
from tfdatafree.model.batchnorm import output_moments
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of
from tfdatafree.preconditioning.constant_channels import freeze_constant_channels


def network(gamma, variance, beta=0.5):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(len(gamma), 3, padding="same", use_bias=False, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    model = keras.Model(inputs, keras.layers.ReLU()(x))
    n = len(gamma)
    model.get_layer("bn").set_weights([np.array(gamma), np.full(n, beta), np.zeros(n), np.array(variance)])
    return Graph.from_keras(model)


def test_dead_channels_become_their_constant():
    graph = network(gamma=[1.0, 1e-5, 1.0, 1.0], variance=[1.0, 1.0, 1e-9, 1.0])
    frozen = freeze_constant_channels(graph)
    assert frozen.notes == {"bn": "2 channel(s) made constant: they move by less than the 8-bit grid"}
    folded = fold(frozen.graph).graph
    kernel, bias = kernel_of(folded.layers["conv"]), folded.layers["conv"].weight("bias")
    np.testing.assert_array_equal(np.abs(kernel).max(axis=(0, 1, 2)) == 0, [False, True, True, False])
    np.testing.assert_allclose(bias[1:3], 0.5)


def test_the_function_moves_less_than_a_quarter_of_a_step():
    gamma = [1.0, 2e-3, 1.0, 0.7]
    graph = network(gamma, [0.8, 1.2, 1.0, 1.1])
    frozen = freeze_constant_channels(graph)
    assert frozen.notes["bn"].startswith("1 channel(s) made constant")
    # Inputs that give each channel about the variance that its BatchNorm stores.
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    before, after = graph.predict([x])[0], frozen.graph.predict([x])[0]
    mean, sd = output_moments(graph.layers["bn"])
    step = ((mean + 4 * sd).max() - (mean - 4 * sd).min()) / 255
    assert np.sqrt(np.mean(np.square(before - after))) < step / 4
    assert np.abs(before - after).max() > 0


def test_lively_channels_are_left_alone_and_the_graph_given_is_not_changed():
    graph = network([1.0, 0.5, -1.0, 2.0], [1.0, 1.0, 1.0, 1.0])
    assert freeze_constant_channels(graph).notes == {}
    dead = network([1.0, 1e-6, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    before = dead.layers["bn"].weight("gamma").copy()
    freeze_constant_channels(dead)
    np.testing.assert_array_equal(dead.layers["bn"].weight("gamma"), before)


def pooled(pool, size=4):
    inputs = keras.Input((size, size, 3))
    return Graph.from_keras(keras.Model(inputs, keras.layers.AveragePooling2D(pool, name="pool")(inputs)))


def test_whole_map_pooling_becomes_global_and_keeps_its_function():
    graph = pooled(4)
    whole = globalize_pooling(graph).graph
    assert whole.layers["pool"].class_name == "GlobalAveragePooling2D"
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(whole.predict([x])[0], graph.predict([x])[0], rtol=1e-5, atol=1e-6)
    assert whole.predict([x])[0].shape == (2, 1, 1, 3)


def test_smaller_windows_stay():
    assert globalize_pooling(pooled(2)).graph.layers["pool"].class_name == "AveragePooling2D"
