import keras
import pytest
from keras import layers as L
from tiny_models import randomized

from tfdatafree import Quantize, Recipe, Rule, Search, compress
from tfdatafree.canonical.separate import separate
from tfdatafree.model.graph import Graph
from tfdatafree.quantization.kernel_bits import first_and_last, kernel_bits


def network() -> keras.Model:
    """Two inputs, a residual, two results: stems a and b come first, heads y and z last."""
    first, second = keras.Input((8, 8, 3)), keras.Input((8, 8, 2))
    a = L.ReLU()(L.Conv2D(4, 3, padding="same", name="a")(first))
    b = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="b")(second)
    x = L.Add()([a, b])
    x = L.Add()(
        [x, L.Conv2D(4, 9, padding="same", name="inner")(L.DepthwiseConv2D(3, padding="same", name="middle")(x))]
    )
    y = L.Dense(3, name="y")(L.GlobalAveragePooling2D()(x))
    return randomized(keras.Model([first, second], [L.Softmax()(y), L.Conv2D(1, 1, name="z")(x)]))


def graph() -> Graph:
    return separate(Graph.from_keras(network())).graph


def test_first_layers_read_inputs_and_last_ones_give_results():
    assert first_and_last(graph()) == {"a", "b", "y", "z"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"depthwise_bits": 8}, {"b": 8, "middle": 8}),
        ({"first_last_bits": 6}, {"a": 6, "b": 6, "y": 6, "z": 6}),
        ({"depthwise_bits": 8, "first_last_bits": 6}, {"a": 6, "b": 8, "middle": 8, "y": 6, "z": 6}),
    ],
)
def test_options_decide_for_their_layers(options, expected):
    assert kernel_bits(graph(), Quantize(weight_bits=4, **options), {}) == expected


def test_rules_come_before_options():
    ruled = kernel_bits(graph(), Quantize(weight_bits=4, depthwise_bits=8), {"b": 5, "inner": 7})
    assert ruled == {"b": 5, "middle": 8, "inner": 7}


@pytest.mark.slow
def test_the_file_and_a_search_hold_to_them():
    options = Quantize(depthwise_bits=8, first_last_bits=8)
    model = network()
    fixed = compress(model, Recipe(quantize=Quantize(weight_bits=4, depthwise_bits=8)), input_range=(-1, 1), verbose=0)
    bits = {key: grid.bits for key, grid in fixed.weight_grids.items() if grid is not None}
    assert bits == bits | {"a": 4, "middle": 8, "inner": 4, "y": 4, "z": 4}
    recipe = Recipe(quantize=options, policy=Search(size=0.95), rules=(Rule("y", weight_bits=4),))
    searched = compress(model, recipe, input_range=(-1, 1), verbose=0)
    layers = searched.report.policy.layers
    assert {key for key, width in layers.items() if width == 8} >= {"a", "b", "middle", "z"}
    assert layers["y"] == 4
