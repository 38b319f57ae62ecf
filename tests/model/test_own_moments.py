import keras
from keras import layers as L
from keras import ops

from tfdatafree.model.graph import Graph
from tfdatafree.model.own_moments import own_moments


def written_by_hand(x):
    centred = x - ops.mean(x, axis=(1, 2), keepdims=True)
    return centred * ops.rsqrt(ops.mean(centred * centred, axis=(1, 2), keepdims=True) + 1e-3)


def operations_of(found, graph: Graph) -> list[str]:
    return sorted(graph.layer_of(node).class_name for node in graph.nodes if node.output in found)


def test_moments_are_found_by_what_is_computed():
    image = keras.Input((4, 4, 3))
    graph = Graph.from_keras(keras.Model(image, L.Conv2D(2, 1)(written_by_hand(L.Conv2D(3, 1)(image)))))
    assert operations_of(own_moments(graph), graph) == ["Add", "Mean", "Mean", "Multiply", "Rsqrt", "Subtract"]


def test_what_is_normalized_and_the_result_are_not_among_them():
    image = keras.Input((4, 4, 3))
    x = L.Conv2D(3, 1, name="before")(image)
    graph = Graph.from_keras(keras.Model(image, written_by_hand(x)))
    found = own_moments(graph)
    assert not found.intersection([*graph.outputs, graph.node("before").output])


def test_a_root_of_anything_else_has_no_moments():
    image = keras.Input((4, 4, 3))
    graph = Graph.from_keras(keras.Model(image, ops.rsqrt(L.ReLU()(L.Conv2D(3, 1)(image)) + 1.0)))
    assert own_moments(graph) == frozenset()
