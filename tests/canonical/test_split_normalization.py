import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import random_inputs, randomized, relative_difference

from tfdatafree.canonical.fold_scales import fold_scales
from tfdatafree.canonical.split_normalization import split_normalization
from tfdatafree.export.float_model import convert
from tfdatafree.model.graph import Graph
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
