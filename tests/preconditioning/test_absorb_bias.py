import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import outputs_of, relative_difference

import tfdatafree
from tfdatafree.canonical.separate import separate
from tfdatafree.model.batchnorm import output_moments
from tfdatafree.model.graph import Graph
from tfdatafree.preconditioning.absorb_bias import absorb_biases


def network(activation=lambda: L.ReLU(), after=lambda: L.Conv2D(3, 1, name="next"), beta=(5.0, 0.1, -2.0, 4.0)):
    x = inputs = keras.Input((8, 8, 3))
    x = L.BatchNormalization(name="bn")(L.Conv2D(4, 3, name="conv")(x))
    model = keras.Model(inputs, after()(activation()(x)))
    random = np.random.default_rng(0)
    model.get_layer("bn").set_weights([np.full(4, 0.5), np.array(beta), np.zeros(4), np.ones(4)])
    for layer in model.layers:
        if isinstance(layer, L.Conv2D) and layer.use_bias:
            layer.bias.assign(random.normal(size=layer.bias.shape))
    return model


def calm_inputs(model, n=8):
    """Inputs on which the BatchNorm's output stays within 3 deviations of its mean."""
    x = np.random.default_rng(1).normal(0, 0.3, size=(n, 8, 8, 3)).astype(np.float32)
    model.get_layer("conv").bias.assign(np.zeros(4))
    y = keras.Model(model.input, model.get_layer("conv").output)(x)
    assert np.abs(np.asarray(y)).max() < 3
    return [x]


@pytest.mark.parametrize(
    "after",
    [
        lambda: L.Conv2D(3, 1, name="next"),
        lambda: L.Conv2D(3, 3, name="next", use_bias=False),
        lambda: L.DepthwiseConv2D(3, name="next"),
    ],
)
def test_function_is_kept_and_the_range_shrinks(after):
    model = network(after=after)
    inputs = calm_inputs(model)
    before = model.get_weights()
    result = tfdatafree.absorb_bias(model)
    assert result.moved == {"bn": 2} and not result.kept
    assert relative_difference(outputs_of(result.model, inputs), outputs_of(model, inputs)) < 1e-5
    graph = absorb_biases(separate(Graph.from_keras(model)).graph).graph
    mean, sd = output_moments(graph.layers["bn"])
    np.testing.assert_allclose(mean, [1.5, 0.1, -2.0, 1.5], rtol=1e-3)  # 3 deviations of 0.5, or what it was
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(activation=lambda: L.ReLU(6)), "not followed by one ReLU"),
        (dict(activation=lambda: L.LeakyReLU()), "not followed by one ReLU"),
        (dict(after=lambda: L.Conv2D(3, 3, padding="same", name="next")), "'next' pads with zeros"),
        (dict(after=lambda: L.MaxPooling2D(2, name="pool")), r"'pool' \(MaxPooling2D\) cannot take it over"),
        (dict(after=lambda: L.Conv2DTranspose(3, 3, name="up")), r"'up' \(Conv2DTranspose\) cannot"),
    ],
)
def test_what_stays_has_its_reason(change, reason):
    model = network(**change)
    graph = separate(Graph.from_keras(model)).graph
    absorbed = absorb_biases(graph)
    assert not absorbed.notes
    with pytest.raises(ValueError, match=reason):
        raise ValueError(absorbed.kept["bn"])
    np.testing.assert_array_equal(absorbed.graph.layers["bn"].weight("beta"), graph.layers["bn"].weight("beta"))


def test_nothing_high_nothing_moved():
    absorbed = absorb_biases(separate(Graph.from_keras(network(beta=(0.1, 0.2, -1.0, 1.0)))).graph)
    assert absorbed.notes == absorbed.kept == {}
