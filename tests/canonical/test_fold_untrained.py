import keras
import numpy as np
from keras import layers as L
from tiny_models import random_inputs, randomized, relative_difference

from tfdatafree.canonical.fold_untrained import fold_untrained, is_untrained
from tfdatafree.canonical.separate import separate
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph


def network() -> keras.Model:
    """Two trained BatchNorms, one whose statistics are still its initial ones, and an identity that a converter left."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.ReLU()(L.BatchNormalization(name="trained")(L.Conv2D(4, 3)(x)))
    x = L.ReLU()(L.BatchNormalization(name="initial")(L.Conv2D(4, 3)(x)))
    x = L.ReLU()(L.BatchNormalization(name="identity", epsilon=1e-3)(x))
    model = randomized(keras.Model(inputs, L.BatchNormalization(name="last")(L.Conv2D(4, 1)(x))))
    for name, variance in (("initial", 1.0), ("identity", 1 - 1e-3)):
        model.get_layer(name).moving_mean.assign(np.zeros(4))
        model.get_layer(name).moving_variance.assign(np.full(4, variance))
    return model


def test_only_batchnorms_that_tell_nothing_are_folded_and_the_function_stays():
    before = separate(Graph.from_keras(network())).graph
    rewrite = fold_untrained(before)
    assert [node.name for node in rewrite.graph.nodes if is_batchnorm(rewrite.graph.layer_of(node))] == [
        "trained",
        "last",
    ]
    inputs = random_inputs(before)
    assert relative_difference(rewrite.graph.predict(inputs), before.predict(inputs)) < 1e-5
    assert rewrite.notes["BatchNorm"].startswith("2 of them hold the statistics of an untrained layer")


def test_a_graph_of_trained_batchnorms_is_left_alone():
    before = separate(Graph.from_keras(network())).graph
    after = fold_untrained(before).graph
    assert not any(is_untrained(layer) for layer in after.layers.values())
    assert fold_untrained(after).graph is after
