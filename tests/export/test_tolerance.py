"""What may differ from its simulation by more than one integer, and why."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from tiny_models import quick, randomized

from tfdatafree.export.tolerance import _OTHERS
from tfdatafree.tflite.flatbuffer import File


@pytest.mark.slow
def test_a_relu_that_is_computed_beside_its_own_input_is_exempt():
    inputs = keras.Input((8,))
    x = L.Dense(12, name="wide")(inputs)
    product = L.Multiply()([ops.relu(x), ops.tanh(x)])
    model = randomized(keras.Model(inputs, L.Dense(3)(product)))
    model.get_layer("wide").bias.assign(np.full(12, -2.0))  # the ReLU's steps are much smaller than those of its input
    built = quick(model).built
    file = File.parse(built.content)
    assert [file.operator_name(operator) for operator in file.operators].count("FULLY_CONNECTED") == 3
    assert _OTHERS in built.notes.values()
    assert min(check.own_sqnr_db for check in built.checks.values()) > 20
