import keras
import pytest
from keras import layers as L
from tiny_models import build, every_model, random_inputs, relative_difference, separated

import tfdatafree
from tfdatafree.canonical.separate import separate
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout


@every_model
def test_function_names_and_the_original_are_kept(name):
    graph = Graph.from_keras(build(name))
    nodes, layers, specs = list(graph.nodes), dict(graph.layers), dict(graph.specs)
    inputs = random_inputs(graph)
    separated = separate(graph).graph
    assert relative_difference(separated.predict(inputs), graph.predict(inputs)) < 1e-5
    assert (graph.nodes, graph.layers, graph.specs) == (nodes, layers, specs)
    assert (separated.inputs, separated.output_names) == (graph.inputs, graph.output_names)
    assert separate(separated).graph.nodes == separated.nodes, "nothing is left to separate"


@every_model
def test_one_operation_per_node(name):
    graph = separated(name)
    for node in graph.nodes:
        operation = graph.operation_of(node)
        activation = getattr(operation, "activation", None)
        if find_layout(graph.layer_of(node)):
            assert activation in (None, keras.activations.linear), node.name
        assert activation is not keras.activations.silu, node.name
        assert not isinstance(operation, (keras.layers.Dropout, keras.layers.SpatialDropout2D)), node.name
        assert not type(operation).__name__.startswith(("Separable", "Silu")), node.name
        if isinstance(operation, keras.layers.Identity):
            assert node.inputs[0] in graph.inputs and node.output in graph.outputs
    assert set(graph.layers) == {node.layer for node in graph.nodes}
    assert set(graph.specs) == {*graph.inputs}.union(*(node.outputs for node in graph.nodes))
    for node in graph.nodes:
        assert set(node.inputs) <= set(graph.specs), node.name


def classes(name: str) -> list[str]:
    graph = separated(name)
    return [f"{node.layer}:{graph.layer_of(node).class_name}" for node in graph.nodes]


def test_a_shared_layer_stays_shared_and_its_activation_follows_each_call():
    assert classes("shared_layer_with_activation") == [
        "conv:Conv2D", "conv_relu:Activation", "conv:Conv2D", "conv_relu:Activation",
        "pool:GlobalAveragePooling2D", "head:Dense",
    ]  # fmt: skip


def test_a_shared_separable_convolution_stays_shared():
    assert classes("shared_separable")[:6] == [
        "sep_depthwise:DepthwiseConv2D", "sep:Conv2D", "sep_relu:Activation",
        "sep_depthwise:DepthwiseConv2D", "sep:Conv2D", "sep_relu:Activation",
    ]  # fmt: skip


def test_what_does_nothing_at_inference_is_gone():
    assert classes("dropouts_in_a_row") == [
        "conv:Conv2D", "conv_relu:Activation", "pool:GlobalAveragePooling2D", "head:Dense",
    ]  # fmt: skip


def test_silu_becomes_a_gate():
    assert classes("swish")[2:4] == ["a_swish_sigmoid:Activation", "a_swish_multiply:Multiply"]
    assert sum("Multiply" in name for name in classes("swish")) == 3


@pytest.mark.parametrize("kind", [L.Add, L.Multiply, L.Maximum, L.Minimum])
def test_what_is_computed_two_by_two_is_two_by_two(kind):
    image = keras.Input((8, 8, 3), name="image")
    branches = [L.Conv2D(4, size, padding="same", name=f"conv{size}")(image) for size in (1, 2, 3)]
    gate = L.GlobalAveragePooling2D(keepdims=True, name="gate")(branches[0])
    merged = L.ReLU(name="relu")(kind(name="merge")([gate, *branches, branches[0]]))
    graph = Graph.from_keras(keras.Model(image, merged))
    separated = separate(graph).graph
    inputs = random_inputs(graph)
    assert relative_difference(separated.predict(inputs), graph.predict(inputs)) < 1e-6
    merges = [node for node in separated.nodes if node.name.startswith("merge")]
    assert [len(node.inputs) for node in merges] == [2, 2, 2, 2]
    assert merges[-1].outputs == ("merge",) and separated.specs["merge_1"].shape == (None, 8, 8, 4)


@pytest.mark.slow
def test_a_sum_of_four_is_rounded_in_the_file_as_in_its_simulation():
    image = keras.Input((9, 9, 4), name="image")
    keras.utils.set_random_seed(1)
    branches = [L.Conv2D(4, size, padding="same", name=f"conv{size}")(image) for size in (1, 2, 3, 4)]
    x = L.GlobalAveragePooling2D(name="pool")(L.ReLU(name="relu")(L.Add(name="add")(branches)))
    model = keras.Model(image, L.Dense(3, name="head")(x))
    rows = {row.name: row.lsb for row in tfdatafree.compress(model, input_range=(-1, 1), verbose=0).report.layers}
    assert {"add_1", "add_2", "relu"} <= set(rows) and max(rows.values()) <= 1


def augmented() -> keras.Model:
    """Layers that change images in training only, one that crops them at inference, too, and one that clips."""
    x = inputs = keras.Input((8, 8, 3))
    for layer in (
        L.RandomFlip(seed=0),
        L.RandomShear(0.5, seed=0),
        L.GaussianNoise(1.0, seed=0),
        L.ReLU(max_value=1e9),
    ):
        x = layer(x)
    return keras.Model(inputs, L.Conv2D(2, 3)(L.RandomCrop(6, 6, seed=0)(x)))


def test_layers_that_do_nothing_at_inference_are_found_by_asking_them():
    graph = separate(Graph.from_keras(augmented())).graph
    assert [graph.layer_of(node).class_name for node in graph.nodes] == ["ReLU", "RandomCrop", "Conv2D"]


def test_a_graph_computes_what_the_model_computes_at_inference():
    model = augmented()
    inputs = random_inputs(model)
    wanted = [model.predict(inputs[0], verbose=0)]
    assert relative_difference(Graph.from_keras(model).predict(inputs), wanted) < 1e-6
