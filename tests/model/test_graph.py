import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_models
from keras import layers as L
from tiny_models import MODELS, build, every_model, functional, outputs_of, random_inputs, relative_difference, state

from tfdatafree import compress
from tfdatafree.errors import UnsupportedModelError
from tfdatafree.model.graph import Graph
from tfdatafree.model.layer import Layer, new_layer, scope_name
from tfdatafree.model.node import Node, Ref
from tfdatafree.tflite.flatbuffer import File

# The graph computes in float32 what this model computes in float16.
TOLERANCE = {"mixed_float16": 2e-3}


@functools.cache
def read_and_written(name: str) -> tuple[tuple, Graph, keras.Model]:
    """What a tiny model was like before it was read, its graph, and the model written from that."""
    before = state(build(name))
    graph = Graph.from_keras(build(name))
    return before, graph, graph.to_keras()


@every_model
def test_reading_and_writing_keep_the_function_and_do_not_change_the_model(name):
    model, (before, graph, written) = build(name), read_and_written(name)
    inputs = random_inputs(graph, 2)
    expected = outputs_of(model, inputs)
    assert min(np.ptp(y) for y in expected) > 1e-3, "a constant output would prove nothing"
    assert relative_difference(graph.predict(inputs), expected) <= TOLERANCE.get(name, 1e-6)
    assert relative_difference(outputs_of(written, inputs), expected) <= TOLERANCE.get(name, 1e-6)
    assert state(model) == before


@every_model
def test_names_structures_and_sharing_are_kept(name):
    model, (_, graph, written) = build(name), read_and_written(name)
    structure = functional(model)._outputs_struct
    expected = sorted(structure) if isinstance(structure, dict) else functional(model).output_names
    assert graph.output_names == expected
    if not any(isinstance(operation, keras.Model) for operation in functional(model).operations):
        assert written.output_names == functional(model).output_names
    assert [x.name for x in written.inputs] == [x.name for x in model.inputs]
    assert [(x.shape, x.dtype) for x in written.inputs] == [(x.shape, x.dtype) for x in model.inputs]
    assert [y.shape for y in written.outputs] == [y.shape for y in model.outputs]
    assert written.name == model.name
    # A layer called twice would be counted twice if its calls had become layers of their own.
    assert written.count_params() == model.count_params()
    assert len(written.operations) == len({id(op) for op in flat_operations(model)})
    if not isinstance(model, keras.Sequential):
        keras.tree.assert_same_structure(written.input, model.input)
        keras.tree.assert_same_structure(written.output, model.output)


def flat_operations(model: keras.Model, outermost: bool = True):
    """Operations of a model and of the models nested in it, without the latter's inputs."""
    for operation in functional(model).operations:
        if isinstance(operation, keras.Model):
            yield from flat_operations(operation, False)
        elif outermost or not isinstance(operation, L.InputLayer):
            yield operation


@every_model
def test_walking_holds_only_tensors_that_are_still_to_be_read(name):
    graph = Graph.from_keras(build(name))
    remaining = list(graph.nodes)
    for node, live in graph.walk(random_inputs(graph, 1)):
        assert node is remaining.pop(0)
        readable = set(graph.outputs).union(node.outputs, *(other.inputs for other in remaining))
        assert set(live) <= readable, f"after '{node.name}'"
    assert set(live) == set(graph.outputs)


@pytest.mark.slow
def test_tensors_are_written_once_before_they_are_read():
    for name in MODELS:
        graph = Graph.from_keras(build(name))
        known = list(graph.inputs)
        for node in graph.nodes:
            assert set(node.inputs) <= set(known), name
            known += node.outputs
        assert len(set(known)) == len(known) and set(known) == set(graph.specs), name
        assert len({node.name for node in graph.nodes}) == len(graph.nodes), name


def test_nested_models_and_repeated_calls_get_names_of_their_own():
    graph = Graph.from_keras(build("nested_called_twice"))
    assert [node.name for node in graph.nodes] == [
        "inner_conv", "inner_bn", "inner_relu", "inner_conv_1", "inner_bn_1", "inner_relu_1", "pool", "head",
    ]  # fmt: skip
    assert graph.calls()["inner_conv"] == 2
    assert graph.node("inner_conv_1").layer == "inner_conv"


def test_two_graphs_share_a_layer_and_compute_with_their_own_weights():
    graph = Graph.from_keras(build("plain"))
    inputs = random_inputs(graph)
    before = graph.predict(inputs)
    copy = graph.copy()
    layer = copy.layers["head"]
    copy.layers["head"] = layer.with_weights(bias=layer.weight("bias") + 1)
    np.testing.assert_allclose(copy.predict(inputs)[0], before[0] + 1, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(graph.predict(inputs)[0], before[0])


def test_a_node_may_be_replaced_while_walking():
    graph = Graph.from_keras(build("two_outputs"))
    inputs = random_inputs(graph)
    for node, live in graph.walk(inputs):
        if node.name == "a_relu":
            live["a_relu"] = live["a_relu"] * 0
    np.testing.assert_allclose(
        np.asarray(live["head"]), np.tile(graph.layers["head"].weight("bias"), (3, 1)), rtol=1e-6
    )


def test_editing():
    graph = Graph.from_keras(build("branch_add"))
    copy = graph.copy()
    assert copy.fresh_name("add") == "add_1" and copy.fresh_name("new") == "new"
    copy.redirect("add", "a_relu")
    assert copy.node("relu").inputs == ("a_relu",)
    copy.drop_unread()
    assert "c_conv" not in copy.layers and "c_conv" not in copy.specs
    assert "add" not in {node.name for node in copy.nodes}
    assert copy.consumers()["a_relu"] == [copy.node("relu")]
    # The graph it was copied from has all of it still.
    assert graph.node("relu").inputs == ("add",) and {"add", "c_conv"} <= set(graph.specs) & set(graph.layers)
    assert graph.consumers()["a_relu"] == [graph.node("b_conv"), graph.node("add")]


def test_redirecting_an_output_keeps_its_name_in_the_model():
    graph = Graph.from_keras(build("softmax"))
    double = Layer(L.Rescaling(2.0, name="double"))
    graph.layers["double"], graph.specs["double"] = double, graph.specs["head"]
    graph.redirect("head", "double")
    graph.nodes.append(Node("double", "double", (Ref("head"),), {}, ("double",)))
    inputs = random_inputs(graph)
    np.testing.assert_allclose(graph.predict(inputs)[0].sum(-1), 2, rtol=1e-5)
    assert graph.outputs == ["double"] and graph.output_names == ["head"]


def test_a_graph_up_to_a_tensor_computes_it_and_nothing_after_it():
    graph = Graph.from_keras(build("branch_add"))
    before, inputs = list(graph.nodes), random_inputs(graph, 2)
    shorter = graph.up_to(["a_relu"])
    live = next(live for node, live in graph.walk(inputs) if node.output == "a_relu")
    np.testing.assert_array_equal(shorter.predict(inputs)[0], np.asarray(live["a_relu"]))
    assert shorter.nodes[-1].output == "a_relu" and "add" not in shorter.specs
    assert graph.nodes == before and "add" in graph.specs, "the whole graph is as it was"


def test_a_removed_node_is_skipped_by_its_readers():
    graph = Graph.from_keras(build("branch_add"))
    copy = graph.copy()
    copy.remove(copy.node("a_relu"))
    assert "a_relu" not in copy.specs and "a_relu" not in copy.layers
    assert all("a_relu" not in node.inputs for node in copy.nodes)
    assert copy.node("b_conv").inputs == graph.node("a_relu").inputs


def test_batches_give_what_one_run_gives():
    graph = Graph.from_keras(build("two_inputs"))
    inputs = random_inputs(graph, 5)
    for size in (None, 1, 2, 5, 9):
        for whole, parts in zip(graph.predict(inputs), graph.run_in_batches(inputs, size), strict=True):
            assert parts.shape == whole.shape
            np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-6)


def test_a_mask_passes_layers_and_reaches_those_that_use_it():
    x = keras.Input((6, 3))
    model = keras.Model(x, L.GlobalAveragePooling1D()(L.ReLU()(L.Masking()(x))))
    inputs = random_inputs(model, 4)
    inputs[0][:, 2:4] = 0
    (expected,), (found,) = outputs_of(model, inputs), Graph.from_keras(model).run_in_batches(inputs, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.abs(expected - np.maximum(inputs[0], 0).mean(axis=1)).max() > 0.05, "masked steps do not count"


def test_the_first_call_of_a_shared_layer():
    graph = Graph.from_keras(build("shared_layer"))
    first = graph.first_calls()
    assert set(first) == set(graph.layers)
    for key, node in first.items():
        assert next(other for other in graph.nodes if other.layer == key) is node


def test_weights_by_name():
    layer = Graph.from_keras(build("plain")).layers["a_conv"]
    assert layer.weight("bias") is None and layer.weight("kernel").shape == (3, 3, 3, 4)
    with pytest.raises(ValueError, match=r"kernel of Conv2D has shape \(3, 3, 3, 4\), not \(2,\)"):
        layer.with_weights(kernel=np.zeros(2))


def test_random_state_survives_writing():
    """A layer with dropout in the middle of it still trains after a round trip."""
    written = Graph.from_keras(build("dropouts_in_a_row")).to_keras()
    inputs = random_inputs(written)
    assert np.any(np.asarray(written(inputs[0], training=True)) != np.asarray(written(inputs[0], training=False)))


def test_sequential_without_shapes_is_refused():
    model = keras.Sequential([L.Conv2D(3, 3)], name="shapeless")
    with pytest.raises(UnsupportedModelError, match=r"'shapeless' \(Sequential\) was never built.*model.build"):
        Graph.from_keras(model)


def test_subclassed_models_are_refused():
    class Mine(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UnsupportedModelError, match=r"'mine' \(Mine\) is a subclassed model.*Functional"):
        Graph.from_keras(Mine(name="mine"))


def test_a_subclassed_model_inside_another_is_refused():
    class Mine(keras.Model):
        def call(self, x):
            return x

    x = tiny_models.image()
    with pytest.raises(UnsupportedModelError, match="'mine'"):
        Graph.from_keras(keras.Model(x, Mine(name="mine")(x)))


@pytest.mark.parametrize("layer", [keras.layers.Conv2D(4, 3), keras.layers.DepthwiseConv2D(3)])
def test_a_rebuilt_layer_has_the_config_and_the_weights_that_it_is_given(layer):
    layer.build((None, 8, 8, 3))
    kernel, bias = (np.full(variable.shape, 2.0, np.float32) for variable in layer.weights)
    built = new_layer(type(layer), layer.get_config(), (None, 8, 8, 3), kernel=kernel, bias=bias)
    config = lambda layer: {**layer.get_config(), "build_config": None}  # noqa: E731
    assert config(built.operation) == config(layer)
    np.testing.assert_array_equal(built.weight("kernel"), kernel)
    np.testing.assert_array_equal(built.weight("bias"), bias)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first conv", "Größe", "a:b;c", "<b>", "a\\b", "_x"])
def test_a_layer_of_any_printable_name_is_written_under_it(name):
    """It computes the same, although TensorFlow would refuse the name."""

    def result(called: str):
        keras.utils.set_random_seed(0)
        image = keras.Input((6, 6, 2), name=f"{called}1")
        x = L.ReLU()(L.Conv2D(3, 3, name=f"{called}2")(image))
        model = keras.Model(image, L.Dense(2, name=f"{called}3")(L.GlobalAveragePooling2D()(x)))
        return compress(model, input_range=(-1, 1), verbose=0)

    odd, plain = result(name), result("plain")
    images = np.random.default_rng(0).uniform(-1, 1, (3, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(odd.predict(images), plain.predict(images))
    file = File.parse(odd.tflite)
    names = {file.name(index) for index in range(len(file.tensors))}
    assert {f"{name}1", f"{name}3", f"{name}3/kernel"} <= names
    assert f"{name}3" in str(odd.report)


def test_names_that_tensorflow_takes_are_left_as_they_are():
    assert [scope_name(name) for name in ("conv_1", "a/b.c-d", "2nd")] == ["conv_1", "a/b.c-d", "2nd"]
    for name in ("a b", "ü", "_x", "a\\b", ""):
        with tf.Graph().as_default(), tf.name_scope(scope_name(name)):
            assert tf.constant(1.0).name
