"""What running a network costs: the count of a graph is that of the file that is made of it."""

import keras
import pytest
from keras import layers as L
from tiny_models import compressed, folded

from tfdatafree.model.cost import is_full_image, multiplications
from tfdatafree.model.graph import Graph
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.sizes import macs


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["depthwise", "grouped", "conv_transpose", "conv1d", "dense_on_pixels", "flatten_dense", "shared_layer"]
)
def test_a_graph_takes_as_many_as_its_file(name):
    assert multiplications(folded(name)) == macs(File.parse(compressed(name).tflite)) > 0


def full_image(size: int, *last: L.Layer) -> Graph:
    """A network of convolutions, and what comes behind them."""
    x = y = keras.Input((size, size, 3), name="image")
    for layer in (L.Conv2D(4, 3, padding="same"), L.ReLU(), L.Conv2D(3, 3, padding="same"), *last):
        y = layer(y)
    return Graph.from_keras(keras.Model(x, y))


def test_a_network_is_full_image_only_if_every_tensor_is():
    assert is_full_image(full_image(64)) and is_full_image(full_image(200))
    assert not is_full_image(full_image(32))
    assert not is_full_image(full_image(128, L.GlobalAveragePooling2D()))
    assert not is_full_image(full_image(128, L.MaxPooling2D(4), L.UpSampling2D(4)))
