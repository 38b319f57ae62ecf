import collections

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from tiny_models import random_inputs, relative_difference

from tfdatafree.errors import ExportError
from tfdatafree.export.float_model import convert
from tfdatafree.model.graph import Graph
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.runtime import Runner

CASES = {
    "nearest": ((6, 5, 2), L.UpSampling2D((3, 2)), {"RESIZE_NEAREST_NEIGHBOR": 1}),
    "largest": ((6, 5, 4), lambda x: ops.argmax(x, -1), {"ARG_MAX": 1}),
    "smallest": ((6, 5, 4), lambda x: ops.argmin(x, 1, keepdims=True), {"ARG_MIN": 1}),
    "pooling_valid": ((5, 6, 7, 2), L.MaxPooling3D((2, 3, 2)), {"MAX_POOL_2D": 2}),
    "pooling_same": ((5, 6, 7, 2), L.MaxPooling3D((3, 2, 1), (2, 2, 3), "same"), {"MAX_POOL_2D": 2}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_file_has_the_operator_and_the_values_of_keras(name):
    shape, function, operators = CASES[name]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, function(inputs))
    probe = random_inputs(model, n=1)
    file = convert(Graph.from_keras(model), probe)
    found = collections.Counter(File.parse(file.content).operator_name(op) for op in File.parse(file.content).operators)
    assert {key: count for key, count in found.items() if key not in ("RESHAPE", "CAST")} == operators
    assert relative_difference(Runner(file.content).run(probe), [np.asarray(model(probe[0]))]) == 0


def test_a_layer_without_an_operator_is_named():
    inputs = keras.Input((6, 6, 2))
    x = L.Resizing(9, 9, "bicubic", name="bigger")(L.Conv2D(2, 3, padding="same")(inputs))
    model = keras.Model(inputs, L.Conv2D(1, 1)(x))
    with pytest.raises(ExportError, match=r"'bigger' \(Resizing\), which needs tf\.ResizeBicubic"):
        convert(Graph.from_keras(model), random_inputs(model, n=1))
