import keras
import numpy as np
import pytest

from tfdatafree.graph import Graph
from tfdatafree.numerics.affine import activation_quantizer
from tfdatafree.optimizers.headroom import COST_DB, LEAST, MOST, decision_tensors, headroom, widen_decisions
from tfdatafree.optimizers.ranges import Range


@pytest.mark.parametrize("noise_in_steps", [2.5, 3, 4, 5])
def test_widening_costs_what_it_may_cost(noise_in_steps):
    scale = 0.1
    propagated = (noise_in_steps * scale) ** 2
    factor = headroom(propagated + scale**2 / 12, scale)
    assert LEAST < factor < MOST
    after = propagated + (factor * scale) ** 2 / 12
    assert 10 * np.log10(after / propagated) == pytest.approx(COST_DB, rel=1e-6)


def test_factor_is_bounded_and_grows_with_the_noise():
    factors = [headroom(noise, 0.1) for noise in (0.0, 1e-3, 5e-2, 1e-1, 1e6)]
    assert factors == sorted(factors)
    assert factors[0] == LEAST and factors[-1] == MOST and LEAST < factors[2] < MOST


def classifier(*tail):
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3, name="conv")(inputs))
    x = keras.layers.Dense(5, name="logits")(x)
    for layer in tail:
        x = layer(x)
    return Graph.from_keras(keras.Model(inputs, x))


@pytest.mark.parametrize(
    "tail",
    [
        (),
        (keras.layers.Softmax(),),
        (keras.layers.Reshape((5, 1)), keras.layers.Activation("sigmoid")),
        (keras.layers.Activation("tanh"), keras.layers.Flatten()),
    ],
)
def test_the_decision_is_seen_through_what_squashes_or_moves_it(tail):
    assert decision_tensors(classifier(*tail)) == ["logits"]


@pytest.mark.parametrize("last", [keras.layers.ReLU(6), keras.layers.Activation("relu6")])
def test_a_capped_output_has_no_headroom(last):
    assert decision_tensors(classifier(last)) == []


def test_only_decisions_are_widened():
    graph = classifier(keras.layers.Softmax())
    ranges = {"conv": Range(-1, 1), "logits": Range(-2, 4)}
    grids = {name: activation_quantizer(r.low, r.high) for name, r in ranges.items()}
    widened = widen_decisions(graph, ranges, {"conv": 1.0, "logits": 1e9}, grids)
    assert widened == {"logits": Range(-2 * MOST, 4 * MOST)}
