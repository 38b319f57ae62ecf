"""split_outputs: a graph in two parts computes what it did, and the decoding line does what the second part does."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from tiny_models import image, random_inputs, randomized

from tfdatafree.canonical.separate import separate
from tfdatafree.model.graph import Graph
from tfdatafree.model.joins import joins_branches
from tfdatafree.quantization.split_outputs import cut_before, decoding, joined, leading_to_outputs, rejoin


def _model(kind: str) -> keras.Model:
    x = image()
    a, b = L.Conv2D(2, 1, name="boxes")(x), L.Conv2D(3, 1, activation="sigmoid", name="scores")(x)
    wide = L.Concatenate(name="wide")([a, b])
    flat = L.Reshape((64, 5))(wide)
    outputs = {
        "beside": lambda: wide,
        "moved": lambda: L.Permute((2, 1))(flat),
        "stacked": lambda: ops.stack([a, L.Conv2D(2, 1, name="others")(x)], axis=2),
        "functions behind": lambda: L.LeakyReLU()(L.Activation("tanh")(flat)),
        "nested": lambda: L.Concatenate(axis=1)([flat, L.Reshape((64, 5))(L.Concatenate()([b, a]))]),
        "twice": lambda: [L.Concatenate()([a, b, a]), a],
        "also read inside": lambda: [wide, L.Dense(2, name="dense")(L.Flatten()(wide))],
    }
    return randomized(keras.Model(x, outputs[kind]()))


_KINDS = ["beside", "moved", "stacked", "functions behind", "nested", "twice", "also read inside"]


@pytest.mark.parametrize("kind", _KINDS)
def test_both_parts_together_compute_what_the_graph_did(kind):
    graph = separate(Graph.from_keras(_model(kind))).graph
    nodes = [node.name for node in graph.nodes if joins_branches(graph, node)]
    assert leading_to_outputs(graph, nodes) == set(nodes)
    cut = cut_before(graph, nodes)
    inputs = random_inputs(graph)
    wanted, branches = graph.predict(inputs), cut.graph.predict(inputs)
    for found in (cut.tail.predict(branches), joined(cut.graph, cut.tail).predict(inputs)):
        for x, y in zip(found, wanted, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)
    names = cut.graph.output_names
    assert len(set(names)) == len(names) and {"boxes", "scores"} & set(names)
    y = dict(zip(names, branches, strict=True))
    for name, line in decoding(cut.graph, cut.tail).items():
        expected = wanted[graph.output_names.index(name)]
        np.testing.assert_allclose(eval(line, {"np": np, "y": y}), expected, rtol=1e-6, atol=1e-6)
    again = rejoin(graph, names[::-1])  # a file's names tell how it was cut
    for x, z in zip(again.predict(branches[::-1]), wanted, strict=True):
        np.testing.assert_allclose(x, z, rtol=1e-6, atol=1e-6)


def test_nothing_is_cut_where_the_values_are_computed_from():
    x = image()
    y = L.Concatenate(name="wide")([L.Conv2D(2, 1)(x), L.Conv2D(3, 1)(x)])
    graph = separate(Graph.from_keras(keras.Model(x, L.Conv2D(4, 1, name="conv")(y)))).graph
    assert cut_before(graph, ["wide"]) is None and not leading_to_outputs(graph, ["wide"])
    assert rejoin(graph, ["conv2d", "conv2d_1"]) is None
