"""multiplications(): the count of a graph is that of the file that is made of it."""

import pytest
from tiny_models import compressed, folded

from tfdatafree.model.multiplications import multiplications
from tfdatafree.tflite.sizes import macs


@pytest.mark.parametrize(
    "name", ["depthwise", "grouped", "conv_transpose", "conv1d", "dense_on_pixels", "flatten_dense", "shared_layer"]
)
@pytest.mark.slow
def test_a_graph_takes_as_many_as_its_file(name):
    assert multiplications(folded(name)) == macs(compressed(name).tflite) > 0
