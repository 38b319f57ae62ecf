import keras
import numpy as np
import pytest
from keras import layers as L

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.model.check import require_quantizable
from tfdatafree.model.graph import Graph


def test_channels_first_is_refused_by_the_layer():
    inputs = keras.Input((3, 8, 8))
    model = keras.Model(inputs, L.Conv2D(2, 3, data_format="channels_first", name="turned")(inputs))
    with pytest.raises(UnsupportedModelError, match=r"'turned' \(Conv2D\) has its channels first"):
        require_quantizable(Graph.from_keras(model))


def test_a_negative_variance_is_refused_by_the_layer():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, L.BatchNormalization(name="broken")(L.Conv2D(2, 3)(inputs)))
    model.get_layer("broken").moving_variance.assign(np.float32([1.0, -0.5]))
    with pytest.raises(UnsupportedModelError, match=r"'broken' \(BatchNormalization\).*moving_variance.*-0\.499"):
        require_quantizable(Graph.from_keras(model))
