import dataclasses

import keras
import numpy as np
import pytest

from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import activation_quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.headroom import BOTTOM, COST_DB, LEAST, MOST, widen_decisions, with_headroom
from tfdatafree.recipe.quantize import Quantize


def steps_of(range_: Range) -> float:
    return float(activation_quantizer(range_.low, range_.high).scale)


@pytest.mark.parametrize("low", [-1.0, -2.0, 0.0])
@pytest.mark.parametrize("noise_in_steps", [5, 5.5])
def test_widening_costs_what_it_may_cost(noise_in_steps, low):
    range_ = Range(low, 4.0)
    scale = steps_of(range_)
    propagated = (noise_in_steps * scale) ** 2
    wider = with_headroom(range_, propagated + scale**2 / 12, scale)
    assert LEAST * range_.high < wider.high < MOST * range_.high
    assert wider.low == BOTTOM * low
    after = propagated + steps_of(wider) ** 2 / 12
    assert 10 * np.log10(after / propagated) == pytest.approx(COST_DB, rel=1e-4)


def test_headroom_is_bounded_and_grows_with_the_noise():
    range_ = Range(-1.0, 4.0)
    tops = [with_headroom(range_, noise, 5 / 255).high / 4 for noise in (0.0, 1e-4, 5e-3, 1e-2, 1e6)]
    assert tops == sorted(tops)
    assert tops[0] == LEAST and tops[-1] == MOST and LEAST < tops[2] < MOST


def test_outputs_that_are_never_positive_keep_their_top():
    assert with_headroom(Range(-4.0, 0.0), 1.0, 4 / 255) == Range(-4 * BOTTOM, 0.0)


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
    decision = Decision(graph=graph, reference=graph, kernels={}, ranges=ranges, options=Quantize())
    loud, exact = {"conv": 1.0, "logits": 1e9}, {"conv": 1.0, "logits": 0.0}
    assert widen_decisions(decision, loud, grids) == {"logits": Range(-2 * BOTTOM, 4 * MOST)}
    assert widen_decisions(decision, exact, grids) == {"logits": Range(-2 * BOTTOM, 4 * LEAST)}
    # Real inputs showed how large outputs are, and no grid reaches beyond where its reader saturates.
    real = dataclasses.replace(decision, real=True)
    assert widen_decisions(real, exact, grids) == {"logits": Range(-2 * BOTTOM, 4)}
    limited = dataclasses.replace(decision, limits={"logits": (-1.5, 5.0)})
    assert widen_decisions(limited, loud, grids) == {"logits": Range(-1.5, 5)}
