import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from tiny_models import random_inputs, relative_difference

from tfdatafree import compress
from tfdatafree.canonical.split_moments import split_moments
from tfdatafree.model.graph import Graph
from tfdatafree.model.own_moments import own_moments

AXES = {"axis": (1, 2), "keepdims": True}


def by_moments(x):
    mean, variance = ops.moments(x, axes=(1, 2), keepdims=True)
    return (x - mean) * ops.rsqrt(variance + 1e-3)


def by_root(x):
    centred = x - ops.mean(x, **AXES)
    return centred / ops.sqrt(ops.mean(centred * centred, **AXES) + 1e-3)


WRITTEN = {
    "moments": by_moments,
    "variance": lambda x: (x - ops.mean(x, **AXES)) * ops.rsqrt(ops.var(x, **AXES) + 1e-3),
    "deviation": lambda x: (x - ops.mean(x, **AXES)) / (ops.std(x, **AXES) + 1e-3),
    "root": by_root,
    "length": lambda x: ops.normalize(x, axis=-1),
}


def model(function) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    return keras.Model(image, L.Conv2D(3, 3)(function(L.Conv2D(4, 3)(image))))


@pytest.mark.parametrize("name", WRITTEN)
def test_the_function_is_kept_and_the_moments_are_found(name):
    graph = Graph.from_keras(model(WRITTEN[name]))
    split, inputs = split_moments(graph).graph, random_inputs(graph)
    assert relative_difference(split.predict(inputs), graph.predict(inputs)) < 1e-4
    assert own_moments(split)
    assert not {"Moments", "Var", "Std", "Normalize"} & {layer.class_name for layer in split.layers.values()}


def test_moments_without_their_axes_are_split_too():
    image = keras.Input((5, 5, 2))
    mean, variance = ops.moments(image, axes=(1, 2))
    graph = Graph.from_keras(keras.Model(image, [mean, variance, ops.std(image, axis=-1)]))
    split, inputs = split_moments(graph).graph, random_inputs(graph)
    assert [y.shape for y in split.predict(inputs)] == [y.shape for y in graph.predict(inputs)]
    assert relative_difference(split.predict(inputs), graph.predict(inputs)) < 1e-4


def test_moments_over_the_batch_and_other_norms_stay():
    image = keras.Input((5, 5, 2))
    graph = Graph.from_keras(keras.Model(image, image * ops.var(image) + ops.normalize(image, order=1)))
    assert {"Var", "Normalize"} <= {layer.class_name for layer in split_moments(graph).graph.layers.values()}


def test_a_root_that_something_else_reads_stays():
    image = keras.Input((5, 5, 2))
    root = ops.sqrt(ops.relu(image) + 1.0)
    graph = Graph.from_keras(keras.Model(image, [image / root, root]))
    assert "Sqrt" in {layer.class_name for layer in split_moments(graph).graph.layers.values()}


def test_a_deviation_that_divides_nothing_gets_8_bits():
    image = keras.Input((5, 5, 2))
    assert own_moments(split_moments(Graph.from_keras(keras.Model(image, ops.std(image, **AXES)))).graph) == frozenset()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moments", "deviation", "root"])
def test_a_normalization_written_by_hand_is_as_exact_as_a_layer(name):
    network = model(WRITTEN[name])
    images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 3)) * np.geomspace(0.2, 1, 8)[:, None, None, None]
    result = compress(network, input_range=(-1, 1), verbose=0)
    expected = network(images.astype("float32")).numpy()
    noise = np.square(expected - result.predict(images.astype("float32"))).mean()
    assert 10 * np.log10(np.square(expected).mean() / noise) > 20
    assert result.report.integer_only == (name != "deviation")
