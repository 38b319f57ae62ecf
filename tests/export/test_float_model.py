"""The kernels of a converted file: replaced by stand-ins on the way through the converter, and put back."""

import os
import threading

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import random_inputs, randomized

from tfdatafree.canonical.separate import separate
from tfdatafree.errors import ExportError
from tfdatafree.export.float_model import _silence, _trace, convert
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of, layout_of, to_tflite
from tfdatafree.tflite.flatbuffer import File


def model() -> Graph:
    x = image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(4, 3, name="conv")(x)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = L.Conv2DTranspose(4, 2, 2, name="transpose")(x)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    x = L.Dense(4, activation="relu", name="dense")(x)
    x = L.Dense(4, activation="tanh", name="twin")(x)
    keras_model = randomized(keras.Model(image, L.Dense(1, name="head")(x)))
    keras_model.get_layer("twin").set_weights(keras_model.get_layer("dense").get_weights())
    return separate(Graph.from_keras(keras_model)).graph


def test_every_kernel_is_found_again_and_holds_its_layers_weights():
    graph = model()
    found = convert(graph, random_inputs(graph, 1))
    file = File.parse(found.content)
    assert sorted(found.layer_of.values()) == ["conv", "dense", "depthwise", "head", "transpose", "twin"]
    for index, key in found.layer_of.items():
        layer = graph.layers[key]
        wanted = to_tflite(kernel_of(layer), layout_of(layer))
        np.testing.assert_array_equal(file.constant(index).ravel(), wanted.ravel())


def test_a_kernel_that_the_converter_changes_is_converted_as_it_is():
    image = keras.Input((8, 8, 3), name="image")
    scaled = L.Conv2D(4, 3, name="conv")(image) * np.float32([1, 2, 3, 4])
    graph = Graph.from_keras(randomized(keras.Model(image, L.Conv2D(2, 1, name="last")(L.ReLU(name="relu")(scaled)))))
    inputs = random_inputs(graph, 1)
    found = convert(graph, inputs)
    assert set(found.layer_of.values()) == {"last"}
    assert found.tensor_of.keys() >= {"relu", "last"}, "their values were compared with the Keras model's"


def test_what_the_converter_computes_from_a_kernel_is_right():
    """It moves the first layer's bias through the second layer's kernel, into the second's bias."""
    image = keras.Input((6,), name="image")
    stacked = randomized(keras.Model(image, L.Dense(3, name="second")(L.Dense(4, name="first")(image))))
    graph = Graph.from_keras(stacked)
    found = convert(graph, random_inputs(graph, 1))
    assert set(found.layer_of.values()) == {"first", "second"}
    assert "second" in found.tensor_of


def test_the_converter_does_not_see_the_kernels():
    graph = Graph.from_keras(keras.Sequential([keras.Input((64,)), L.Dense(1000, name="dense")]))
    kernel = kernel_of(graph.layers["dense"])
    size = len(_trace(graph, {"dense": np.float32(1.5)}).graph.as_graph_def().SerializeToString())
    assert size < kernel.nbytes / 4 < len(_trace(graph, {}).graph.as_graph_def().SerializeToString())


def test_threads_that_convert_at_once_leave_standard_error_where_it_was():
    before = os.fstat(2)

    def hide(first: threading.Event, then: threading.Event):
        with _silence():
            first.set()
            then.wait(0.2)

    events = [threading.Event(), threading.Event()]
    threads = [threading.Thread(target=hide, args=pair) for pair in (events, events[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.path.sameopenfile(2, 2) and os.fstat(2).st_ino == before.st_ino


def test_a_convolution_that_the_converter_names_anew_is_found_by_its_weights():
    image = keras.Input((6, 6, 4))
    grouped = L.Conv2D(8, 1, groups=4, use_bias=False, name="grouped")(image)
    graph = separate(Graph.from_keras(randomized(keras.Model(image, L.Activation("tanh")(grouped))))).graph
    model = convert(graph, random_inputs(graph, 1))
    assert model.tensor_of.keys() == graph.specs.keys()


def test_a_layer_that_a_later_operator_completes_is_no_tensor_of_the_file():
    """The bias of a 1-D convolution with one filter becomes an operator of its own, into which the converter puts the ReLU."""
    image = keras.Input((16, 4))
    conv = L.Conv1D(1, 3, bias_initializer=keras.initializers.Constant(1e-4), name="conv")
    graph = separate(Graph.from_keras(keras.Model(image, L.Flatten()(L.ReLU()(conv(image)))))).graph
    found = convert(graph, random_inputs(graph, 1))
    assert "conv" not in found.tensor_of, "the file holds it without its bias"


def test_layers_that_the_converter_cannot_write_together_are_named():
    image = keras.Input((4,))
    graph = separate(Graph.from_keras(keras.Model(image, L.ReLU(name="rectified")(L.Activation("gelu")(image))))).graph
    with pytest.raises(ExportError, match=r"'rectified' \(ReLU\).*tf.Erfc"):
        convert(graph, random_inputs(graph, 1))
