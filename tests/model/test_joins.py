"""parts_of: where the values of joined branches are."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from tiny_models import image, random_inputs, randomized

from tfdatafree.canonical.separate import separate
from tfdatafree.model.graph import Graph
from tfdatafree.model.joins import parts_of


def _joined(kind: str) -> keras.Model:
    x = image()
    a = L.Conv2D(2, 1, name="boxes")(x)
    b = L.Reshape((8, 8, 3))(L.Conv2D(3, 1, activation="sigmoid", name="scores")(x))
    wide = L.Concatenate()([a, b])
    made = {
        "beside": lambda: wide,
        "rows": lambda: L.Concatenate(axis=1)([a, L.Conv2D(2, 1)(x)]),
        "stacked": lambda: ops.stack([a, L.Conv2D(2, 1)(x)], axis=2),
        "twice": lambda: L.Concatenate()([a, b, a]),
        "moved": lambda: L.Permute((2, 1))(L.Reshape((64, 5))(wide)),
        "nested": lambda: L.Concatenate(axis=1)(
            [L.Reshape((64, 5))(wide), L.Reshape((64, 5))(L.Concatenate()([b, a]))]
        ),
    }
    return randomized(keras.Model(x, made[kind]()))


@pytest.mark.parametrize("kind", ["beside", "rows", "stacked", "twice", "moved", "nested"])
def test_a_part_of_the_tensor_is_its_branch(kind):
    graph = separate(Graph.from_keras(_joined(kind))).graph
    parts = parts_of(graph, graph.outputs[0])
    assert len(parts) == {"twice": 3, "nested": 4}.get(kind, 2)
    assert len({part.name for part in parts}) == len(parts)
    inputs = random_inputs(graph)
    (whole,) = graph.predict(inputs)
    assert sum(part.places.size for part in parts) == whole[0].size
    for part in parts:
        (branch,) = graph.up_to([part.tensor]).predict(inputs)
        np.testing.assert_array_equal(part.of(whole), branch)


def test_branches_have_the_names_that_the_user_gave():
    graph = separate(Graph.from_keras(_joined("beside"))).graph
    assert [part.name for part in parts_of(graph, graph.outputs[0])] == ["boxes", "scores"]


def test_what_is_computed_from_a_join_has_no_parts():
    x = image()
    y = L.Concatenate()([L.Conv2D(2, 1)(x), L.Conv2D(3, 1)(x)])
    for result in (L.Conv2D(4, 1)(y), L.Softmax()(y), L.MaxPooling2D()(y), L.Add()([y, y])):
        graph = separate(Graph.from_keras(keras.Model(x, result))).graph
        assert parts_of(graph, graph.outputs[0]) == ()
    graph = separate(Graph.from_keras(keras.Model(x, L.ReLU()(y)))).graph
    assert len(parts_of(graph, graph.outputs[0])) == 2
