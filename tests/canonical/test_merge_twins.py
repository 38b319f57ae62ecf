import keras
from keras import layers as L
from tiny_models import random_inputs, randomized, relative_difference

from tfdatafree.canonical.merge_twins import merge_twins
from tfdatafree.model.graph import Graph


def model() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    stem = L.Conv2D(4, 3, name="stem")(image)
    first, twin = L.ReLU(name="first")(stem), L.ReLU(name="twin")(stem)
    padded, alike = L.ZeroPadding2D(1, name="padded")(first), L.ZeroPadding2D(1, name="alike")(twin)
    other = L.ReLU(6.0, name="other")(stem)
    outputs = [L.Conv2D(2, 3, name=name)(x) for name, x in (("left", padded), ("right", alike), ("third", other))]
    return randomized(keras.Model(image, [*outputs, L.ReLU(name="output")(stem)]))


def test_equal_operations_become_one_and_the_function_stays():
    graph = Graph.from_keras(model())
    nodes, inputs = list(graph.nodes), random_inputs(graph)
    merged = merge_twins(graph).graph
    gone = {node.name for node in graph.nodes} - {node.name for node in merged.nodes}
    assert len(gone & {"first", "twin", "output"}) == 2
    assert len(gone & {"padded", "alike"}) == 1
    assert len(gone) == 3
    assert relative_difference(merged.predict(inputs), graph.predict(inputs)) == 0
    assert (merged.outputs, graph.nodes) == (graph.outputs, nodes)
    assert set(merged.layers) == {node.layer for node in merged.nodes}


def test_outputs_keep_their_names_and_two_of_them_stay_two():
    image = keras.Input((8, 8, 3), name="image")
    stem = L.Conv2D(4, 3, name="stem")(image)
    inner, *outputs = (L.ReLU(name=name)(stem) for name in ("inner", "output", "other"))
    graph = Graph.from_keras(randomized(keras.Model(image, [L.Conv2D(2, 3, name="last")(inner), *outputs])))
    merged, inputs = merge_twins(graph).graph, random_inputs(graph)
    assert len(merged.nodes) == len(graph.nodes) - 1
    assert merged.outputs == graph.outputs
    assert set(merged.specs) >= {tensor for node in merged.nodes for tensor in node.outputs}
    assert relative_difference(merged.predict(inputs), graph.predict(inputs)) == 0


def test_what_is_merged_once_stays():
    merged = merge_twins(Graph.from_keras(model())).graph
    assert merge_twins(merged).graph.nodes == merged.nodes


def test_layers_with_weights_are_left_alone():
    image = keras.Input((8, 8, 3), name="image")
    twins = [L.Conv2D(4, 3, kernel_initializer="ones", name=name)(image) for name in ("a", "b")]
    graph = Graph.from_keras(keras.Model(image, L.ReLU(name="relu")(L.Add(name="add")(twins))))
    assert merge_twins(graph).graph.nodes == graph.nodes


def test_calls_of_one_layer_on_the_same_tensor_become_one():
    image = keras.Input((8, 8, 3), name="image")
    conv = L.Conv2D(4, 3, name="conv")
    parts = [conv(image), conv(image), conv(L.ReLU(name="relu")(image))]
    graph = Graph.from_keras(randomized(keras.Model(image, L.Concatenate(name="joined")(parts))))
    merged, inputs = merge_twins(graph).graph, random_inputs(graph)
    assert sorted(node.layer for node in merged.nodes) == ["conv", "conv", "joined", "relu"], (
        "the third reads something else"
    )
    assert relative_difference(merged.predict(inputs), graph.predict(inputs)) == 0
