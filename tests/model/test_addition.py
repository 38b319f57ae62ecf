"""What an example's sum is does not depend on how many examples there are."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from tiny_models import random_inputs

from tfdatafree.export.float_model import convert
from tfdatafree.model.graph import Graph
from tfdatafree.tflite.runtime import Runner

WIDE = np.random.default_rng(0).normal(size=(1, 5, 5)).astype("float32")
CASES = {
    "value_per_row": ((5, 5), lambda x: x + ops.mean(x, -1, keepdims=True)),
    "constant_first": ((5, 5), lambda x: ops.add(WIDE, ops.mean(x, -1, keepdims=True))),
    "layer": ((5, 5), lambda x: L.Add()([x, ops.max(x, 2, keepdims=True)])),
    "mean_of_two": ((5, 5), lambda x: L.Average()([x, ops.max(x, 2, keepdims=True)])),
    "fewer_axes": ((5, 4, 4), lambda x: L.Add()([x, L.GlobalMaxPooling2D()(x)])),
    "value_per_example": ((3,), lambda x: x + ops.sum(x, -1, keepdims=True)),
    "one_channel": ((6, 1), lambda x: L.Add()([x, ops.abs(x)])),
    "a_bias": ((4, 3), lambda x: x + np.float32([1, 2, 3])),
    "a_number": ((4, 3), lambda x: 2.0 + x),
}


@pytest.mark.parametrize("name", CASES)
def test_a_sum_is_that_of_a_batch_whose_size_is_no_other_axis(name):
    shape, function = CASES[name]
    inputs = keras.Input(shape)
    graph = Graph.from_keras(keras.Model(inputs, function(inputs)))
    x = random_inputs(graph, n=7)[0]
    wanted = np.asarray(function(keras.ops.convert_to_tensor(x)))
    for n in (1, 3, 7):
        np.testing.assert_allclose(graph.predict([x[:n]])[0], wanted[:n], rtol=1e-5, atol=1e-6)
    file = Runner(convert(graph, [x[:1]]).content)
    np.testing.assert_allclose(file.predict([x[:1]])[0], wanted[:1], rtol=1e-5, atol=1e-6)
