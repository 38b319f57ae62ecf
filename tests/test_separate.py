import keras
import pytest
from tiny_models import MODELS, build, random_inputs, relative_difference, separated

from tfdatafree.graph import Graph
from tfdatafree.linear import layout_of
from tfdatafree.visitors.separate import separate

every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_function_names_and_the_original_are_kept(name):
    graph = Graph.from_keras(build(name))
    nodes, layers, specs = list(graph.nodes), dict(graph.layers), dict(graph.specs)
    inputs = random_inputs(graph)
    separated = separate(graph)
    assert relative_difference(separated.predict(inputs), graph.predict(inputs)) < 1e-5
    assert (graph.nodes, graph.layers, graph.specs) == (nodes, layers, specs)
    assert (separated.inputs, separated.output_names) == (graph.inputs, graph.output_names)
    assert separate(separated).nodes == separated.nodes, "nothing is left to separate"


@every_model
def test_one_operation_per_node(name):
    graph = separated(name)
    for node in graph.nodes:
        operation = graph.operation_of(node)
        activation = getattr(operation, "activation", None)
        if layout_of(graph.layer_of(node)):
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
