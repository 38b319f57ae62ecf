"""Inputs that fit the statistics of the first BatchNorm: their mean, deviation and smoothness, and the range that follows."""

import keras
import numpy as np
import pytest
from keras import layers as L

from tfdatafree import compress
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.fit import Fit, fit_inputs
from tfdatafree.inputs.input_range import find_input_ranges
from tfdatafree.inputs.make import make_inputs
from tfdatafree.inputs.procedural import procedural_images, unit_inputs
from tfdatafree.model.graph import Graph


def trained_on(x: np.ndarray, *before: keras.layers.Layer, seed: int = 0) -> Graph:
    """A network whose first BatchNorm, behind the layers `before`, holds the statistics of `x`."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(x.shape[1:])
    y = inputs
    for layer in before:
        y = layer(y)
    bn = L.BatchNormalization(name="bn")
    outputs = bn(y)
    model = keras.Model(inputs, outputs)
    values = np.asarray(keras.Model(inputs, y)(x))
    axes = tuple(range(values.ndim - 1))
    bn.moving_mean.assign(values.mean(axis=axes))
    bn.moving_variance.assign(values.var(axis=axes))
    return separate(Graph.from_keras(model)).graph


def convolution(rank: int, filters: int = 16) -> keras.layers.Layer:
    return (L.Conv1D if rank == 1 else L.Conv2D)(filters, 3, padding="same", name="conv")


def fitted(graph: Graph, seed: int = 0) -> Fit:
    return fit_inputs(graph, graph.inputs[0], seed)


@pytest.mark.parametrize("kind", ["pictures", "fields", "noise"])
@pytest.mark.parametrize(
    "shape, mean, sd", [((16, 16, 3), 120.0, 50.0), ((24, 20, 1), 0.0, 1.0), ((64, 2), -31.0, 9.0)]
)
@pytest.mark.slow
def test_mean_and_deviation_come_back(shape, kind, mean, sd):
    x = mean + sd * unit_inputs(48, shape, kind, seed=5)
    fit = fitted(trained_on(x, convolution(len(shape) - 1)), seed=1)
    assert fit.linear and fit.divergence < 0.1
    assert np.abs(fit.mean - x.mean()).max() < 0.35 * x.std()
    assert 0.6 < np.sqrt(np.mean(fit.sd**2)) / x.std() < 1.6


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape, axis", [((24, 10, 1), 1), ((64, 9), 1), ((40,), 0)], ids=["coefficients", "sensors", "features"]
)
def test_inputs_that_differ_along_an_axis_come_back(shape, axis):
    random = np.random.default_rng(2)
    like = [size if at == axis else 1 for at, size in enumerate(shape)]
    mean, sd = random.normal(0, 40, like), np.exp(random.normal(2, 1, like))
    x = mean + sd * unit_inputs(256, shape, "fields" if len(shape) > 1 else "pictures", seed=5)
    layer = {3: L.Conv2D(48, (5, 4), strides=2), 2: L.Conv1D(48, 3), 1: L.Dense(96)}[len(shape)]
    graph = trained_on(x.astype(np.float32), layer)
    fit, found = fitted(graph), find_input_ranges(graph)[0]
    assert fit.split and fit.divergence < 0.15
    inside = np.mean((x > found.low) & (x < found.high))
    assert inside > 0.98 and (found.high - found.low) / (x.max() - x.min()) < 3
    if axis == len(shape) - 1:  # else the kernel passes over all bins, and the signs of their means do not show
        generated = make_inputs(graph, 64, (found,))[0]
        assert np.corrcoef(generated.mean(axis=tuple(range(len(shape)))), mean.ravel())[0, 1] > 0.9
        assert 0.6 < np.linalg.norm(fit.sd) / np.linalg.norm(sd) < 1.6


@pytest.mark.slow
def test_inputs_that_are_alike_along_all_axes_are_not_split():
    for kind in ("pictures", "fields", "noise"):
        x = unit_inputs(64, (24, 20, 1), kind, seed=5)
        assert not fitted(trained_on(x, convolution(2))).split


@pytest.mark.slow
def test_noise_is_not_taken_for_anything_smooth():
    for kind in ("pictures", "fields", "noise"):
        x = unit_inputs(64, (24, 20, 1), kind, seed=5)
        assert (fitted(trained_on(x, convolution(2)), seed=1).kind == "noise") == (kind == "noise")


@pytest.mark.parametrize(
    "before", [(), (L.ZeroPadding2D(1),), (L.Permute((2, 1, 3)),)], ids=["none", "padding", "permuted"]
)
def test_a_batchnorm_at_the_input_tells_all(before):
    x = np.array([4.0, -1.0, 0.0]) + np.array([2.0, 0.5, 6.0]) * np.random.default_rng(0).normal(size=(200, 12, 12, 3))
    graph = trained_on(x.astype(np.float32), *before)
    fit, found = fitted(graph), find_input_ranges(graph)[0]
    np.testing.assert_allclose(fit.mean, [4, -1, 0], atol=0.5)
    np.testing.assert_allclose(fit.sd, [2, 0.5, 6], rtol=0.3)
    assert fit.divergence < 0.02
    generated = make_inputs(graph, 64, (found,))[0]
    assert generated.min() >= found.low and generated.max() <= found.high
    assert found.low < -15 and found.high > 15, "real values of the last channel reach that far"
    np.testing.assert_allclose(generated.mean(axis=(0, 1, 2)), [4, -1, 0], atol=1)
    np.testing.assert_allclose(generated.std(axis=(0, 1, 2)), [2, 0.5, 6], rtol=0.4)


@pytest.mark.slow
def test_a_relu_before_the_batchnorm_is_no_obstacle():
    x = -30 + 8 * unit_inputs(64, (24, 20, 1), "fields", seed=5)
    fit = fitted(trained_on(x, convolution(2), L.ReLU(), L.MaxPooling2D(2)))
    assert not fit.linear and fit.divergence < 0.2
    assert abs(fit.mean.mean() + 30) < 12 and 0.5 < fit.sd.mean() / 8 < 2


def test_dead_channels_and_constant_ones_tell_nothing():
    x = procedural_images(32, (16, 16, 3), 0, 255, seed=5)
    graph = trained_on(x, convolution(2))
    bn = graph.layers["bn"]
    variance, mean = bn.required_weight("moving_variance").copy(), bn.required_weight("moving_mean").copy()
    variance[:3], mean[:3] = 0, 1e4
    graph.layers["bn"] = bn.with_weights(moving_variance=variance, moving_mean=mean)
    found = find_input_ranges(graph)[0]
    assert (found.low, found.high) == (0, 255)


@pytest.mark.parametrize(
    "ends, given, factor", [((0, 255), (0, 1), 255), ((-1, 1), (0, 255), 0.00784), ((0, 1), (-128, 128), 0.00391)]
)
def test_a_range_that_the_statistics_contradict_is_told(ends, given, factor):
    graph = trained_on(procedural_images(40, (16, 16, 3), *ends, seed=5), convolution(2))
    found = find_input_ranges(graph, given)[0]
    assert (found.low, found.high) == given, "the user decides"
    low, high = ends
    assert f"{factor:.3g} times as wide; did you mean ({low:g}, {high:g})?" in found.warning
    # What is generated lies in the given range, and fits as badly as that.
    generated = make_inputs(graph, 8, (found,))[0]
    assert generated.min() >= given[0] and generated.max() <= given[1]
    assert found.divergence > 0.1 or (given[0] <= low and high <= given[1])
    agreed = find_input_ranges(graph, ends)[0]
    assert (agreed.low, agreed.high, agreed.warning, agreed.offset) == (*ends, "", None)


@pytest.mark.parametrize(
    "scale, offset, ends",
    [
        (2.0, -1.0, (0, 1)),
        (2.0, 0.0, (-1, 1)),
        (1 / 127.5, -1.0, (0, 255)),
        (1.0, -128.0, (0, 255)),
        (1 / 255, 0.0, (0, 255)),
    ],
)
def test_a_rescaling_is_of_8_bit_values_unless_the_statistics_contradict_it(scale, offset, ends):
    x = procedural_images(40, (16, 16, 3), *ends, seed=5)
    found = find_input_ranges(trained_on(x, L.Rescaling(scale, offset), convolution(2)))[0]
    assert found.ends == ends and not found.warning


@pytest.mark.parametrize(
    "scale, offset, told",
    [
        (1 / 255, 0.0, True),
        (1 / 127.5, -1.0, True),
        (1 / 127.5, [-1.0, -0.9, -0.8], True),
        (1.0, -127.5, True),
        (2.0, -1.0, False),
        (1e-4, 0.0, False),
    ],
)
def test_without_statistics_a_rescaling_is_judged_by_what_it_makes_of_8_bit_values(scale, offset, told):
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Rescaling(scale, offset), L.Conv2D(4, 3)])
    found = find_input_ranges(separate(Graph.from_keras(model)).graph)[0]
    assert (found.ends == (0, 255)) == told == (not found.warning)


@pytest.mark.slow
def test_inputs_follow_the_statistics_within_a_given_range():
    """Signals rarely fill the range that a sensor can show."""
    x = 3 * unit_inputs(64, (64, 2), "fields", seed=5)
    graph = trained_on(x, convolution(1))
    found = find_input_ranges(graph, (-40, 40))[0]
    generated = make_inputs(graph, 32, (found,))[0]
    assert (found.low, found.high) == (-40, 40) and 0.6 < generated.std() / 3 < 1.6
    assert find_input_ranges(graph)[0].low < -8


@pytest.mark.slow
def test_without_evidence_the_user_is_told(caplog):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Conv2D(4, 3)(inputs))))
    found = find_input_ranges(separate(Graph.from_keras(model)).graph)[0]
    assert (found.low, found.high) == (-1, 1) and "assumed" in found.warning and "representative_data" in found.warning
    compress(model, verbose=0)
    assert "nothing in" in caplog.text
    caplog.clear()
    compress(model, representative_data=procedural_images(8, (8, 8, 1)), verbose=0)
    compress(model, input_range=(0, 1), verbose=0)
    assert "nothing in" not in caplog.text


def test_given_inputs_beyond_the_given_range_are_told_and_kept(caplog):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Conv2D(4, 3)(inputs))))
    data = procedural_images(8, (8, 8, 1), 0, 255)
    result = compress(model, input_range=(0, 1), representative_data=data, verbose=0)
    assert "beyond input_range (0, 1)" in caplog.text
    grid = result.built.grids[result.built.graph.inputs[0]]
    assert grid.high >= data.max() - grid.scale / 2
