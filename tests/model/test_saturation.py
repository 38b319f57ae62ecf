import keras
import numpy as np
import pytest
from keras import layers as L
from scipy import special

from tfdatafree.model.graph import Graph
from tfdatafree.model.saturation import reach, saturating_reader, softmax_inputs


def readers(*branches, output=False):
    inputs = keras.Input((4, 4, 3))
    x = L.Conv2D(5, 1, name="conv")(inputs)
    ends = [branch(x) for branch in branches] + ([x] if output else [])
    graph = Graph.from_keras(keras.Model(inputs, ends))
    return graph, graph.consumers()["conv"]


@pytest.mark.parametrize(
    "branches, output, kind",
    [
        ((L.Softmax(),), False, "SOFTMAX"),
        ((L.Softmax(axis=3),), False, "SOFTMAX"),
        ((L.Softmax(axis=1),), False, None),
        ((L.Activation("softmax"),), False, "SOFTMAX"),
        ((L.Activation("sigmoid"),), False, "LOGISTIC"),
        ((L.Activation("tanh"),), False, "TANH"),
        ((L.Activation("sigmoid"), L.Activation("tanh")), False, None),
        ((L.Activation("sigmoid"), L.ReLU()), False, None),
        ((L.Activation("sigmoid"),), True, None),
        ((L.ReLU(),), False, None),
    ],
)
def test_only_what_saturates_for_all_readers_counts(branches, output, kind):
    graph, nodes = readers(*branches, output=output)
    assert saturating_reader(graph, "conv", nodes) == kind
    assert softmax_inputs(graph) == (["conv"] if kind == "SOFTMAX" else [])


@pytest.mark.parametrize("bits", [8, 16])
def test_beyond_the_reach_an_output_changes_by_at_most_half_a_step(bits):
    far = np.linspace(0, 60, 200)
    half = 2.0 ** -(bits + 1)
    x = reach("LOGISTIC", bits)
    assert np.abs(special.expit(x + far) - special.expit(x)).max() <= half * (1 + 1e-9)
    x = reach("TANH", bits)
    assert np.abs(np.tanh(x + far) - np.tanh(x)).max() <= 2 * half * (1 + 1e-9), "steps of tanh are twice as wide"
    for channels in (2, 10, 1000):
        logits = np.full(channels, -reach("SOFTMAX", bits, channels))
        logits[0] = 0
        further = logits - np.where(logits < 0, 30, 0)
        assert np.abs(special.softmax(logits) - special.softmax(further)).max() <= half
