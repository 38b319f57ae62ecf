import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from tiny_models import random_inputs, randomized, relative_difference

from tfdatafree.canonical.fold_scales import fold_scales
from tfdatafree.canonical.split_normalization import split_normalization
from tfdatafree.export.float_model import convert
from tfdatafree.model.graph import Graph
from tfdatafree.model.own_moments import own_moments
from tfdatafree.tflite.flatbuffer import File


def model(**options) -> keras.Model:
    x = image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(6, 3, name="conv")(x)
    x = L.LayerNormalization(name="norm", **options)(x)
    x = L.Conv2D(4, 1, name="mix")(x)
    return randomized(keras.Model(image, L.GlobalAveragePooling2D(name="pool")(x)))


OPTIONS = [{}, {"axis": (1, 2, 3)}, {"center": False}, {"scale": False}, {"epsilon": 0.5}]


@pytest.mark.parametrize("options", OPTIONS)
def test_function_is_kept_and_the_layer_is_gone(options):
    graph = Graph.from_keras(model(**options))
    nodes, inputs = list(graph.nodes), random_inputs(graph)
    split = split_normalization(graph).graph
    assert relative_difference(split.predict(inputs), graph.predict(inputs)) < 1e-5
    assert not any(layer.class_name == "LayerNormalization" for layer in split.layers.values())
    assert graph.nodes == nodes
    assert relative_difference([np.asarray(split.to_keras()(inputs[0]))], graph.predict(inputs)) < 1e-5


def test_names_do_not_depend_on_what_the_process_did_before():
    names = [[node.name for node in split_normalization(Graph.from_keras(model())).graph.nodes] for _ in range(2)]
    assert names[0] == names[1]
    assert "norm" in names[0], "the layer's own tensor keeps its name"


def test_every_tensor_of_the_file_is_a_tensor_of_the_graph():
    graph = fold_scales(split_normalization(Graph.from_keras(model())).graph).graph
    found = convert(graph, random_inputs(graph, 1))
    file = File.parse(found.content)
    names = [file.operator_name(operator) for operator in file.operators]
    assert names == ["CONV_2D", "MEAN", "SUB", "MUL", "MEAN", "ADD", "RSQRT", "MUL", "CONV_2D", "MEAN"]
    assert {index for operator in file.operators for index in operator.outputs} <= set(found.tensor_of.values())


def test_each_call_of_a_shared_layer_is_split():
    x = image = keras.Input((4, 4, 3), name="image")
    norm = L.LayerNormalization(name="norm")
    shared = randomized(keras.Model(image, L.Conv2D(2, 1, name="conv")(norm(L.ReLU(name="relu")(norm(x))))))
    graph = Graph.from_keras(shared)
    inputs = random_inputs(graph)
    split = split_normalization(graph).graph
    assert relative_difference(split.predict(inputs), graph.predict(inputs)) < 1e-5
    assert len(split.nodes) == 2 * 8 + 2


STANDARDIZE = {"function": tf.image.per_image_standardization, "output_shape": (6, 6, 6)}
LAYERS = [
    (L.GroupNormalization, {"groups": 3}),
    (L.GroupNormalization, {"groups": -1, "center": False}),
    (L.GroupNormalization, {"groups": 1, "scale": False}),
    (L.RMSNormalization, {}),
    (L.RMSNormalization, {"axis": [2, 3]}),
    (L.UnitNormalization, {}),
    (L.UnitNormalization, {"axis": (1, 2)}),
    (L.Lambda, STANDARDIZE),
]


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_other_normalizations_keep_their_function(kind, options):
    image = keras.Input((6, 6, 6), name="image")
    graph = Graph.from_keras(randomized(keras.Model(image, L.Conv2D(2, 1)(kind(name="norm", **options)(image)))))
    far_from_zero = [np.random.default_rng(0).normal(40, 3, (2, 6, 6, 6)).astype("float32")]
    split = split_normalization(graph).graph
    assert relative_difference(split.predict(far_from_zero), graph.predict(far_from_zero)) < 1e-4
    assert not any(layer.class_name == kind.__name__ for layer in split.layers.values())
    assert own_moments(split), "the parts are recognized"


def test_an_image_of_one_colour_gives_zeros_and_no_nan():
    image = keras.Input((4, 4, 2), name="image")
    for kind, options in (
        (L.GroupNormalization, {"groups": 2}),
        (L.Lambda, {**STANDARDIZE, "output_shape": (4, 4, 2)}),
    ):
        graph = Graph.from_keras(keras.Model(image, kind(**options)(image)))
        found = split_normalization(graph).graph.predict([np.full((1, 4, 4, 2), 7.0, "float32")])[0]
        np.testing.assert_allclose(found, 0, atol=1e-4)


def test_a_sequence_is_normalized_in_groups():
    x = keras.Input((9, 4), name="x")
    graph = Graph.from_keras(randomized(keras.Model(x, L.GroupNormalization(2)(x))))
    inputs = random_inputs(graph)
    assert relative_difference(split_normalization(graph).graph.predict(inputs), graph.predict(inputs)) < 1e-5
