import keras
import numpy as np
import pytest

from tfdatafree.measuring.patches import MOST_INPUTS, sample_patches, tap_covariances
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import kernel_of, layout_of, output_last
from tfdatafree.numerics.second_moment import covariance_of, covariance_of_scaled, with_doubt

LAYERS = {
    "conv same": (keras.layers.Conv2D, dict(filters=4, kernel_size=3, strides=2, padding="same"), (9, 8, 3)),
    "conv valid dilated": (keras.layers.Conv2D, dict(filters=4, kernel_size=(2, 3), dilation_rate=2), (9, 10, 3)),
    "grouped": (keras.layers.Conv2D, dict(filters=6, kernel_size=3, groups=3), (7, 7, 6)),
    "depthwise": (keras.layers.DepthwiseConv2D, dict(kernel_size=3, depth_multiplier=2, padding="same"), (6, 7, 4)),
    "conv1d causal": (keras.layers.Conv1D, dict(filters=5, kernel_size=3, padding="causal"), (11, 4)),
    "dense": (keras.layers.Dense, dict(units=6), (5,)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_patches_times_kernel_are_outputs_of_the_layer(case):
    """The promise that rounding builds on: patch @ kernel, group by group, is what the layer computes at some pixel."""
    layer_class, config, shape = LAYERS[case]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer_class(use_bias=False, name="layer", **config)(inputs))
    graph = Graph.from_keras(model)
    layer = graph.layers["layer"]
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    outputs = graph.predict([x])[0].reshape(-1, graph.specs["layer"].shape[-1])
    patches = sample_patches(x, layer, np.random.default_rng(1))
    count, groups, per_group = patches.shape
    matrix = output_last(kernel_of(layer), layout_of(layer)).reshape(per_group, groups, -1)
    products = np.einsum("ngk,kgo->ngo", patches, matrix).reshape(count, -1)
    distance = np.abs(products[:50, None] - outputs[None]).max(axis=2).min(axis=1)
    assert distance.max() < 1e-4
    spread = np.unique(np.abs(products[:50, None] - outputs[None]).max(axis=2).argmin(axis=1))
    assert len(spread) > 1  # not one pixel over and over


def graph_of(layer, shape):
    inputs = keras.Input(shape)
    return Graph.from_keras(keras.Model(inputs, layer(inputs)))


def test_transposed_and_very_large_kernels_are_seen_pixel_by_pixel():
    random = np.random.default_rng(0)
    for layer, channels in (
        (keras.layers.Conv2DTranspose(3, 3, name="layer"), 4),
        (keras.layers.Conv2D(2, 3, name="layer"), 200),
    ):
        x = random.normal(size=(2, 5, 5, channels)).astype(np.float32)
        patches = sample_patches(x, graph_of(layer, x.shape[1:]).layers["layer"], random)
        assert patches.shape[1:] == (1, channels)
        pixels = {pixel.tobytes() for pixel in x.reshape(-1, channels)}
        assert all(patch.tobytes() in pixels for patch in patches[:, 0])


def test_wider_layers_than_a_covariance_can_hold_have_none():
    layer = graph_of(keras.layers.Dense(2, name="layer"), (MOST_INPUTS + 1,)).layers["layer"]
    assert sample_patches(np.ones((1, MOST_INPUTS + 1), np.float32), layer, np.random.default_rng(0)) is None


def test_covariance_is_centred():
    random = np.random.default_rng(0)
    patches = random.normal(5, 1, size=(4000, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(covariance_of(patches), np.tile(np.eye(3), (2, 1, 1)), atol=0.1)


def test_tap_passes_the_stream_on_and_finds_each_layer_once():
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(3, 3, name="first")(inputs)
    x = keras.layers.DepthwiseConv2D(3, name="second")(x)
    graph = Graph.from_keras(keras.Model(inputs, x))
    values = [
        ("absent", np.ones(1)),
        (graph.inputs[0], np.ones((2, 6, 6, 2), np.float32)),
        ("first", np.ones((2, 4, 4, 3))),
    ]
    found = {}
    assert [name for name, _ in tap_covariances(values, graph, found)] == [name for name, _ in values]
    assert {key: value.shape for key, value in found.items()} == {"first": (1, 18, 18), "second": (3, 9, 9)}


@pytest.mark.parametrize(
    "operation",
    [
        keras.layers.Conv2D(4, 3),
        keras.layers.Conv2D(4, 3, groups=2),
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        keras.layers.Conv2DTranspose(4, 3),
    ],
)
def test_scaling_channels_scales_their_covariance(operation):
    random = np.random.default_rng(0)
    x, factor = random.normal(size=(3, 6, 6, 4)).astype(np.float32), random.uniform(0.5, 3, 4)
    operation.build(x.shape)
    layer = Layer(operation, tuple(np.asarray(variable) for variable in operation.weights))
    plain, scaled = (
        covariance_of(sample_patches(values.astype(np.float32), layer, np.random.default_rng(1)))
        for values in (x, x * factor)
    )
    np.testing.assert_allclose(covariance_of_scaled(plain, factor), scaled, rtol=1e-4, atol=1e-5)


def test_the_fewer_the_samples_the_less_a_covariance_is_trusted():
    """The truth is the identity: with doubt, its worst direction is never far too small, as it is without."""
    random = np.random.default_rng(0)
    for count in (20, 40, 400):
        plain = covariance_of(random.normal(size=(count, 1, 40)).astype(np.float32))
        doubted = with_doubt(plain, count)
        np.testing.assert_allclose(doubted[0] - plain[0], np.eye(40) * np.trace(plain[0]) / count, rtol=1e-3, atol=1e-6)
        lowest = [np.linalg.eigvalsh(c[0]).min() for c in (plain, doubted)]
        assert lowest[1] > 0.5
        assert lowest[0] < 0.1 or count == 400
