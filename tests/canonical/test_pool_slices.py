import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from tiny_models import build, image

from tfdatafree import compress
from tfdatafree.canonical.pool_slices import pool_slices
from tfdatafree.canonical.separate import separate
from tfdatafree.model.graph import Graph
from tfdatafree.tflite.flatbuffer import File

SLICES = {
    "both": lambda x: x[:, ::2, ::2, :],
    "no channels": lambda x: x[:, ::3, ::3],
    "rows": lambda x: x[:, ::2, :, :],
    "from 0": lambda x: x[:, 0::2, 0::4],
}
OTHERS = {
    "cropped": lambda x: x[:, 1::2, ::2],
    "ended": lambda x: x[:, :4:2, ::2],
    "channels": lambda x: x[:, :, :, ::2],
    "reversed": lambda x: x[:, ::-1, ::-1],
    "all": lambda x: x[:, :, :],
    "row": lambda x: ops.expand_dims(x[:, 3], 1),
}


def sliced(function) -> tuple[keras.Model, Graph, Graph]:
    x = image((7, 8, 4))
    y = L.Conv2D(2, 1, name="conv")(function(L.Conv2D(4, 1, name="before")(x)))
    model = keras.Model(x, y)
    graph = separate(Graph.from_keras(model)).graph
    return model, graph, pool_slices(graph).graph


def classes(graph: Graph) -> list[str]:
    return [graph.layer_of(node).class_name for node in graph.nodes]


@pytest.mark.parametrize("name", SLICES)
def test_a_pooling_takes_the_same_pixels(name):
    model, before, after = sliced(SLICES[name])
    assert "GetItem" in classes(before) and "GetItem" not in classes(after) and "MaxPooling2D" in classes(after)
    x = np.random.default_rng(0).normal(size=(3, 7, 8, 4)).astype(np.float32)
    np.testing.assert_array_equal(after.predict([x])[0], before.predict([x])[0])
    assert [after.specs[node.output] for node in after.nodes] == [before.specs[node.output] for node in before.nodes]
    assert after.to_keras().output_shape == model.output_shape


def test_slices_of_a_loaded_model_are_known_too(tmp_path):
    model, _, _ = sliced(SLICES["both"])
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert "GetItem" not in classes(pool_slices(separate(Graph.from_keras(loaded)).graph).graph)


@pytest.mark.parametrize("name", OTHERS)
def test_other_slices_are_left_alone(name):
    _, before, after = sliced(OTHERS[name])
    assert classes(after) == classes(before)


def test_the_graph_that_came_is_not_changed():
    _, before, _ = sliced(SLICES["both"])
    assert "GetItem" in classes(before)


@pytest.mark.parametrize("target, operator", [("edgetpu", "MAX_POOL_2D"), ("generic", "STRIDED_SLICE")])
@pytest.mark.slow
def test_a_target_without_slices_gets_poolings_of_the_same_values(target, operator):
    model = build("ops_nodes")
    result = compress(model, input_range=(-1, 1), target=target, verbose=0)
    file = File.parse(result.tflite)
    names = [file.operator_name(o) for o in file.operators]
    assert operator in names and ("STRIDED_SLICE" in names) == (target == "generic")
    if target == "edgetpu":
        assert not any("STRIDED_SLICE" in name for name in result.report.on_target.refused)
