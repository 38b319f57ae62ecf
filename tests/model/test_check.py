import keras
import numpy as np
import pytest
from keras import layers as L

from tfdatafree import compress
from tfdatafree.errors import UnsupportedModelError
from tfdatafree.model.check import require_channels_last, require_quantizable
from tfdatafree.model.graph import Graph

TURNED = (
    L.Conv2D(2, 3, data_format="channels_first", name="turned"),
    L.SeparableConv2D(2, 3, data_format="channels_first", name="turned"),
    L.DepthwiseConv2D(3, data_format="channels_first", name="turned"),
    L.GlobalAveragePooling2D(data_format="channels_first", name="turned"),
    L.Flatten(data_format="channels_first", name="turned"),
)


@pytest.mark.parametrize("layer", TURNED, ids=lambda layer: type(layer).__name__)
def test_channels_first_is_refused_by_the_layer_before_anything_is_done_to_it(layer):
    inputs = keras.Input((3, 8, 8))
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(UnsupportedModelError, match=rf"'turned' \({type(layer).__name__}\) has its channels first"):
        require_channels_last(Graph.from_keras(model))
    with pytest.raises(UnsupportedModelError, match="channels first"):
        compress(model, input_range=(-1, 1), verbose=0)


def test_a_negative_variance_is_refused_by_the_layer():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, L.BatchNormalization(name="broken")(L.Conv2D(2, 3)(inputs)))
    model.get_layer("broken").moving_variance.assign(np.float32([1.0, -0.5]))
    with pytest.raises(UnsupportedModelError, match=r"'broken' \(BatchNormalization\).*moving_variance.*-0\.499"):
        require_quantizable(Graph.from_keras(model))
