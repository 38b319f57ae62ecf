import keras
import numpy as np
from keras import layers as L
from tiny_models import build, randomized

import tfdatafree
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.make import make_inputs
from tfdatafree.measuring.observe import observe, tensor_means
from tfdatafree.model.graph import Graph


def block():
    x = inputs = keras.Input((8, 8, 3))
    x = L.BatchNormalization(name="bn")(L.Conv2D(5, 3, use_bias=False, name="first")(x))
    x = L.Conv2D(4, 3, name="second")(L.ReLU()(x))
    return randomized(keras.Model(inputs, L.Dense(3, name="third")(L.GlobalAveragePooling2D()(x))))


def test_layer_inputs_follow_the_batchnorm_before_the_layer():
    model = block()
    before = model.get_weights()
    found = tfdatafree.layer_inputs(model, samples=500)
    assert {key: value.shape for key, value in found.items()} == {
        "first": (500, 3),
        "second": (500, 5),
        "third": (500, 4),
    }
    assert found["second"].min() == 0  # behind the ReLU
    bn = model.get_layer("bn")
    gamma, beta, variance = (np.asarray(w) for w in (bn.gamma, bn.beta, bn.moving_variance))
    sd = np.abs(gamma) * np.sqrt(variance / (variance + bn.epsilon))
    unclipped = beta > 3 * sd
    np.testing.assert_allclose(found["second"].mean(axis=0)[unclipped], beta[unclipped], atol=0.05)
    np.testing.assert_array_equal(found["second"], tfdatafree.layer_inputs(model, samples=500)["second"])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_normalized_view_has_the_moments_that_the_batchnorms_store():
    unfolded = separate(Graph.from_keras(block())).graph
    folded = fold(unfolded).graph
    observed = observe(unfolded, folded, make_inputs(folded, 8, (-1, 1)))
    layer = unfolded.layers["bn"]
    np.testing.assert_allclose(observed.normalized["bn"].mean, layer.weight("beta"), atol=1e-3)
    variance = layer.weight("moving_variance")
    wanted = np.square(layer.weight("gamma")) * variance / (variance + layer.operation.epsilon)
    np.testing.assert_allclose(observed.normalized["bn"].variance, wanted, rtol=1e-2)
    assert np.abs(observed.images["bn"].mean - layer.weight("beta")).max() > 0.01  # as they are, the images differ


def test_covariances_are_dropped_where_folding_changed_what_a_layer_sees():
    unfolded = separate(Graph.from_keras(build("batchnorm_before_valid_conv"))).graph
    folded = fold(unfolded)
    observed = observe(unfolded, folded.graph, make_inputs(unfolded, 4, (-1, 1)))
    assert not folded.kept
    assert observed.covariances.keys() == {"a_conv", "head"}  # not "conv", which the BatchNorm was folded into


def test_standard_inputs_know_nothing_of_the_statistics():
    unfolded = separate(Graph.from_keras(block())).graph
    folded = fold(unfolded).graph
    observed = observe(unfolded, folded, make_inputs(folded, 4, (-1, 1)), standard=True)
    np.testing.assert_allclose(observed.means["bn"], 0, atol=0.01)
    assert not observed.covariances


def test_means_alone_are_those_of_the_whole_observation():
    unfolded = separate(Graph.from_keras(build("branch_add"))).graph
    inputs = make_inputs(unfolded, 4, (-1, 1))
    wanted = observe(unfolded, fold(unfolded).graph, inputs, samples=200).means
    found = tensor_means(unfolded, inputs, samples=200)
    assert found.keys() == wanted.keys()
    for tensor, mean in wanted.items():
        np.testing.assert_allclose(found[tensor], mean, atol=1e-6)


def test_without_moments_everything_else_is_the_same():
    unfolded = separate(Graph.from_keras(block())).graph
    folded = fold(unfolded).graph
    inputs = make_inputs(folded, 4, (-1, 1))
    whole, less = (observe(unfolded, folded, inputs, samples=200, moments=moments) for moments in (True, False))
    assert whole.variances.keys() == whole.normalized.keys() and less.variances.keys() == set(folded.inputs)
    for view in ("images", "normalized"):
        wanted, found = getattr(whole, view), getattr(less, view)
        assert wanted.keys() == found.keys()
        for tensor, s in wanted.items():
            assert (found[tensor].low, found[tensor].high) == (s.low, s.high)
            np.testing.assert_array_equal(found[tensor].samples, s.samples)
    for tensor, mean in whole.means.items():
        np.testing.assert_array_equal(less.means[tensor], mean)
