import keras
import numpy as np
import pytest
from keras import layers as L
from normal_moments import activation_moments, moments_by_quadrature
from scipy import special
from tiny_models import every_model, image, randomized, separated

from tfdatafree.canonical.separate import separate
from tfdatafree.measuring.gaussian import gaussian_walk
from tfdatafree.model.batchnorm import is_batchnorm, output_moments
from tfdatafree.model.graph import Graph

# Half a per mille of a standard deviation: samples are quantiles, not draws.
EXACT = 5e-4


def walked(name_or_graph, samples: int = 2000, **options) -> dict[str, np.ndarray]:
    graph = separated(name_or_graph) if isinstance(name_or_graph, str) else name_or_graph
    return dict(gaussian_walk(graph, samples=samples, **options))


def graph_of(inputs, outputs) -> Graph:
    return separate(Graph.from_keras(randomized(keras.Model(inputs, outputs)))).graph


@every_model
def test_every_tensor_gets_finite_samples_of_its_channels(name):
    graph = separated(name)
    order = [tensor for tensor, _ in gaussian_walk(graph, samples=100)]
    assert order == [*graph.inputs, *(tensor for node in graph.nodes for tensor in node.outputs)]
    found = walked(name, 100)
    rows = {len(values) for values in found.values()}
    assert len(rows) == 1
    for tensor, values in found.items():
        assert values.shape[1:] == (graph.specs[tensor].shape[-1],) and np.isfinite(values).all(), tensor


@every_model
def test_behind_a_batchnorm_mean_is_beta_and_deviation_gamma(name):
    graph, found = separated(name), walked(name)
    for node in graph.nodes:
        layer = graph.layer_of(node)
        if not is_batchnorm(layer) or layer.operation.axis == 1:
            continue
        beta = layer.weight("beta") if layer.operation.center else 0
        gamma = layer.weight("gamma") if layer.operation.scale else 1
        variance = layer.weight("moving_variance")
        sd = np.abs(gamma) * np.sqrt(variance / (variance + layer.operation.epsilon))
        values = found[node.output].astype(np.float64)
        np.testing.assert_allclose(values.mean(axis=0), beta + 0 * sd, atol=EXACT * max(1, sd.max()))
        np.testing.assert_allclose(values.std(axis=0), sd, rtol=2e-3, atol=1e-9)


def test_channels_are_independent():
    values = walked("plain")["b_bn"]
    correlation = np.corrcoef(values.T) - np.eye(values.shape[1])
    assert np.abs(correlation).max() < 0.1


@pytest.mark.parametrize(
    "name, before, after, activation",
    [
        ("plain", "a_bn", "a_relu", "relu"),
        ("depthwise", "dw_bn", "dw_relu6", "relu6"),
        ("leaky_relu", "bn", "leaky", "leaky_relu"),
    ],
)
def test_an_activation_has_the_moments_of_the_clipped_normal(name, before, after, activation):
    found = walked(name)
    bn = separated(name).layer_of(separated(name).node(before))
    slope = {"negative_slope": 0.1} if activation == "leaky_relu" else {}
    mean, variance = activation_moments(activation, *output_moments(bn), **slope)
    np.testing.assert_allclose(found[after].mean(axis=0), mean, atol=2e-3)
    np.testing.assert_allclose(found[after].var(axis=0), variance, rtol=5e-3)


def test_slopes_per_channel_have_the_moments_of_the_clipped_normal():
    x = image()
    y = L.PReLU(shared_axes=[1, 2], name="prelu")(L.BatchNormalization(name="bn")(L.Conv2D(6, 3, name="conv")(x)))
    graph = graph_of(x, L.Conv2D(2, 1, name="head")(y))
    slope = graph.layers["prelu"].weight("alpha").reshape(-1)
    assert np.ptp(slope) > 0.1
    mean, variance = activation_moments("relu", *output_moments(graph.layers["bn"]), negative_slope=slope)
    found = walked(graph)["prelu"]
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=2e-3)
    np.testing.assert_allclose(found.var(axis=0), variance, rtol=5e-3)


SMOOTH = {
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "swish": lambda x: x * special.expit(x),
    "gelu": lambda x: x * special.ndtr(x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_a_smooth_activation_has_the_moments_of_its_function(name):
    graph, found = separated(name), walked(name)
    bn = next(node for node in graph.nodes if is_batchnorm(graph.layer_of(node)))
    # The last tensor of the same size before weights come again is the activation's.
    after = graph.nodes[graph.nodes.index(bn) + 1 :]
    until = next(i for i, node in enumerate(after) if graph.layer_of(node).weights)
    activated = [n.output for n in after[:until] if graph.specs[n.output] == graph.specs[bn.output]][-1]
    mean, variance = moments_by_quadrature(SMOOTH[name], *output_moments(graph.layer_of(bn)))
    np.testing.assert_allclose(found[activated].mean(axis=0), mean, atol=2e-3)
    np.testing.assert_allclose(found[activated].var(axis=0), variance, rtol=1e-2)


def test_branches_are_added_joined_and_multiplied():
    found = walked("branch_add")
    np.testing.assert_allclose(
        found["add"].mean(axis=0), found["a_relu"].mean(axis=0) + found["c_bn"].mean(axis=0), atol=1e-4
    )
    np.testing.assert_array_equal(found["add"], found["a_relu"] + found["c_bn"])
    found = walked("concatenate")
    np.testing.assert_array_equal(
        found["join"], np.concatenate([found["a_relu"], found["louder"], found["a_relu"]], axis=1)
    )
    found = walked("squeeze_excite")
    np.testing.assert_array_equal(found["excite"], found["a_relu"] * found["expand_sigmoid"])
    np.testing.assert_array_equal(found["reshape"], found["squeeze"])


def test_without_a_batchnorm_the_kernel_gives_the_moments():
    x = image()
    graph = graph_of(x, L.Conv2D(4, 3, name="conv")(L.BatchNormalization(name="bn")(x)))
    found, layer = walked(graph), graph.layers["conv"]
    mean, sd = output_moments(graph.layers["bn"])
    kernel = layer.weight("kernel").astype(np.float64)
    np.testing.assert_allclose(
        found["conv"].mean(axis=0), np.einsum("hwio,i->o", kernel, mean) + layer.weight("bias"), atol=5e-3
    )
    np.testing.assert_allclose(found["conv"].var(axis=0), np.einsum("hwio,i->o", kernel**2, sd**2), rtol=1e-2)
    standard = walked(graph, unknown="standard")["conv"]
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(standard.std(axis=0), 1, rtol=2e-3)


@pytest.mark.parametrize("kind", ["grouped", "depthwise", "transpose", "dense"])
def test_moments_through_a_kernel_are_those_of_many_pixels(kind):
    """The moments of real convolutions of independent normal pixels, away from the border."""
    x = keras.Input((9, 9, 4), name="image")
    layer = {
        "grouped": L.Conv2D(6, 3, groups=2, name="layer"),
        "depthwise": L.DepthwiseConv2D(3, depth_multiplier=2, name="layer"),
        "transpose": L.Conv2DTranspose(5, 4, strides=2, padding="same", name="layer"),
        "dense": L.Dense(5, name="layer"),
    }[kind]
    graph = graph_of(x, layer(L.BatchNormalization(name="bn")(x)))
    mean, sd = output_moments(graph.layers["bn"])
    pixels = np.random.default_rng(0).normal(mean, sd, (400, 9, 9, 4)).astype(np.float32)
    y = np.asarray(graph.call(graph.node("layer"), {"bn": pixels})[0])
    y = y[:, 4:-4, 4:-4] if kind == "transpose" else y
    found = walked(graph)["layer"]
    np.testing.assert_allclose(found.mean(axis=0), y.mean(axis=(0, 1, 2)), atol=0.03)
    if kind != "transpose":  # there the variance differs between neighbouring pixels
        np.testing.assert_allclose(found.var(axis=0), y.var(axis=(0, 1, 2)), rtol=0.1)


def test_flattening_keeps_the_distribution():
    found = walked("flatten_dense", 100)
    pixels = found["flatten"].shape[1] // found["a_relu"].shape[1]
    np.testing.assert_allclose(found["flatten"].mean(axis=0), np.tile(found["a_relu"].mean(axis=0), pixels), rtol=1e-4)


@pytest.mark.slow
def test_wide_tensors_get_fewer_rows():
    x = keras.Input((64, 64, 8), name="image")
    graph = graph_of(x, L.Dense(2, name="head")(L.Flatten(name="flatten")(x)))
    rows = {len(values) for values in walked(graph, 2000).values()}
    assert rows == {2**22 // (64 * 64 * 8)}


def test_same_seed_same_samples():
    first, second, other = (walked("branch_add", 50, seed=seed) for seed in (1, 1, 2))
    for tensor in first:
        np.testing.assert_array_equal(first[tensor], second[tensor])
    assert np.any(first["add"] != other["add"])


def test_along_another_axis_channels_see_the_mixture():
    graph = separated("batchnorm_on_another_axis")
    mean, sd = output_moments(graph.layers["bn"])
    values = walked("batchnorm_on_another_axis")["bn"]
    np.testing.assert_allclose(values.mean(axis=0), mean.mean(), atol=EXACT)
    np.testing.assert_allclose(values.var(axis=0), np.mean(sd**2) + mean.var(), rtol=2e-3)


@every_model
def test_without_batchnorm_statistics_every_normal_is_the_standard_one(name):
    graph = separated(name)
    found = walked(name, 500, unknown="standard", batchnorm=False)
    for node in graph.nodes:
        if is_batchnorm(graph.layer_of(node)):
            np.testing.assert_allclose(found[node.output].mean(axis=0), 0, atol=0.01)
            np.testing.assert_allclose(found[node.output].std(axis=0), 1, atol=0.01)


@pytest.mark.parametrize(
    "function, mean",
    [
        (lambda x: keras.layers.Softmax(axis=[1, 2])(x), 1 / 36),
        (lambda x: keras.ops.var(x, (1, 2), keepdims=True), 35 / 36),
    ],
)
def test_means_of_functions_over_positions_are_those_of_whole_maps(function, mean):
    inputs = keras.Input((6, 6, 3))
    outputs = function(keras.layers.BatchNormalization(epsilon=0.0)(inputs))
    graph = Graph.from_keras(keras.Model(inputs, outputs))
    samples = dict(gaussian_walk(graph))[graph.outputs[0]]
    np.testing.assert_allclose(samples.mean(axis=0), mean, rtol=0.3)
