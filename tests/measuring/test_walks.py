"""Inputs made or given, what passes through a model, and what is remembered of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from tiny_models import SHAPE, each, every_kind, every_model, folded, fresh, image, random_inputs, randomized, separated

from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.given import MOST_INPUTS, take_inputs
from tfdatafree.inputs.given_range import check_input_range
from tfdatafree.inputs.input_range import COMMON_RANGES, find_input_ranges, given_by_input
from tfdatafree.inputs.make import make_inputs
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.measuring.tensor_statistics import SAMPLES, Statistics, collect
from tfdatafree.measuring.walks import image_walk, normalized_walk, number_of_batches
from tfdatafree.model import graph as graphs
from tfdatafree.model.batchnorm import is_batchnorm, output_moments
from tfdatafree.model.graph import Graph

# One model for each kind of inputs, and for each way in which the first layers tell the range of these.
INPUTS = ["plain", "shared_layer", "two_inputs", "dict_inputs", "conv1d", "one_channel", "uint8_input", "static_batch"]
TOLD = ["rescaling", "normalization", "batchnorm_at_the_input", "batchnorm_on_another_axis", "batchnorm_before_valid_conv",
        "shared_batchnorm", "batchnorm_of_a_vector", "batchnorms_in_a_row", "dense_on_pixels", "nested", "merges",
        "no_bias", "input_is_an_output", "ops_nodes", "dead_channels"]  # fmt: skip


# Statistics -----------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_values():
    x = np.random.default_rng(0).normal(3, 2, (5, 4, 4, 3)).astype(np.float32)
    s = Statistics.of(x, 100, np.random.default_rng(0))
    assert (s.low, s.high, s.count) == (x.min(), x.max(), 80)
    np.testing.assert_allclose(s.mean, x.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(s.variance, x.var(axis=(0, 1, 2)), rtol=1e-4)
    assert len(s.samples) == 100 and np.isin(s.samples, x).all()
    whole = Statistics.of(x, 1000, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(whole.samples), np.sort(x.ravel()))


def test_the_variance_of_a_large_mean_keeps_its_digits():
    x = np.random.default_rng(0).normal(1000, 1, (4000, 2)).astype(np.float32)
    s = Statistics.of(x, 10, np.random.default_rng(0))
    np.testing.assert_allclose(s.variance, x.astype(np.float64).var(axis=0), rtol=1e-2)


def test_merged_statistics_are_those_of_the_whole():
    x = np.random.default_rng(1).normal(size=(10, 6, 3)).astype(np.float32) * [1, 5, 0.1] + [0, 2, -1]
    random = np.random.default_rng(0)
    whole = Statistics.of(x, 10, random)
    merged = (
        Statistics.of(x[:3], 10, random)
        .merge(Statistics.of(x[3:4], 10, random))
        .merge(Statistics.of(x[4:], 10, random))
    )
    assert (merged.low, merged.high, merged.count) == (whole.low, whole.high, whole.count)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(merged.variance, whole.variance, rtol=1e-5)
    assert len(merged.samples) == 30


@every_kind
def test_batches_one_by_one_leave_the_statistics_of_all(name, monkeypatch):
    graph = separated(name) if name == "static_batch" else folded(name)
    inputs = random_inputs(graph, 6)
    whole = collect(image_walk(graph, inputs))
    monkeypatch.setattr(graphs, "_BATCH_BYTES", 2 * graph.largest_activation())
    assert number_of_batches(graph, 6) == 3
    parts = collect(image_walk(graph, inputs), batches=3)
    assert list(parts) == list(whole) == [*graph.inputs, *(t for node in graph.nodes for t in node.outputs)]
    for tensor, s in whole.items():
        assert s.count == parts[tensor].count
        scale = max(abs(s.low), abs(s.high), 1e-6)
        for attribute in ("low", "high", "mean", "variance"):
            a, b = getattr(s, attribute), getattr(parts[tensor], attribute)
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale**2 + 1e-5 * scale, err_msg=tensor)
        assert len(parts[tensor].samples) <= SAMPLES + 3


# Walks ----------------------------------------------------------------------------------------------------------------


@every_model
def test_normalized_images_have_the_batchnorms_moments(name):
    graph = separated(name)
    inputs = make_inputs(graph, 8, (0, 255) if name == "uint8_input" else (-1, 1))
    found = dict(normalized_walk(graph, inputs))
    assert list(found) == [*graph.inputs, *(t for node in graph.nodes for t in node.outputs)]
    for node in graph.nodes:
        layer = graph.layer_of(node)
        if is_batchnorm(layer):
            axis = layer.operation.axis % found[node.output].ndim
            others = tuple(a for a in range(found[node.output].ndim) if a != axis)
            beta, sd = output_moments(layer)
            varies = found[node.inputs[0]].var(axis=others) > 1e-9
            np.testing.assert_allclose(found[node.output].mean(axis=others), beta, atol=2e-3)
            np.testing.assert_allclose(found[node.output].std(axis=others)[varies], sd[varies], rtol=1e-2, atol=1e-5)


def test_normalizing_keeps_the_sign_of_gamma():
    x = image()
    model = randomized(keras.Model(x, L.BatchNormalization(name="bn")(x)))
    model.get_layer("bn").gamma.assign([1.0, -1.0, 0.5])
    graph = separate(Graph.from_keras(model)).graph
    inputs = make_inputs(graph, 8, (-1, 1))
    y = dict(normalized_walk(graph, inputs))["bn"]
    assert [np.sign(np.corrcoef(inputs[0][..., c].ravel(), y[..., c].ravel())[0, 1]) for c in range(3)] == [1, -1, 1]


@each(INPUTS)
def test_inputs_have_shape_type_and_range(name):
    graph = separated(name)
    low, high = (0, 255) if name == "uint8_input" else (-0.5, 2.0)
    made = make_inputs(graph, 5, (low, high), seed=3)
    for tensor, values in zip(graph.inputs, made, strict=True):
        assert values.shape == (5, *graph.specs[tensor].shape[1:]) and values.dtype == graph.specs[tensor].dtype
        assert low <= values.min() and values.max() <= high and np.ptp(values) > (high - low) / 2
    for a, b in zip(made, make_inputs(graph, 5, (low, high), seed=3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_inputs_are_not_the_same_images():
    left, right = make_inputs(separated("shared_layer"), 4, (0, 1))
    assert np.mean(left == right) < 0.1


# Representative data --------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(7, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize(
    "data",
    [
        X, X.astype(np.float64), tf.constant(X), {"image": X}, list(X), iter(X), [X[:3], X[3:]], [(X, np.zeros(7))],
        [{"image": X[:5]}, {"image": X[5:]}],
        tf.data.Dataset.from_tensor_slices(X), tf.data.Dataset.from_tensor_slices(X).batch(3),
        tf.data.Dataset.from_tensor_slices((X, np.zeros(7))).batch(3),
        tf.data.Dataset.from_tensor_slices((X, np.zeros(7))),
    ],
)  # fmt: skip
def test_real_inputs_in_any_form(data):
    (taken,) = take_inputs(data, separated("plain"))
    assert taken.dtype == np.float32
    np.testing.assert_allclose(taken, X, rtol=1e-6)


def test_real_inputs_of_a_model_with_two():
    graph = separated("two_inputs")
    left, right = X, np.ones((7, 4, 4, 2), np.float32)
    pairs = tf.data.Dataset.from_tensor_slices(((left, right), np.zeros(7))).batch(4)
    for data in ([left, right], (left, right), {"right": right, "left": left}, [(left, right)], pairs):
        taken = take_inputs(data, graph)
        np.testing.assert_array_equal(taken[0], left)
        np.testing.assert_array_equal(taken[1], right)


def test_no_more_real_inputs_than_are_of_use():
    endless = (X for _ in iter(int, 1))
    assert len(take_inputs(endless, separated("plain"))[0]) == MOST_INPUTS


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("plain", [], "representative_data is empty"),
        ("plain", np.zeros((0, *SHAPE)), "representative_data is empty"),
        ("plain", 3, "representative_data is a int; give an array"),
        ("plain", X[..., :2], r"for 'image' has shape \(7, 8, 8, 2\); give \(n, 8, 8, 3\)"),
        ("two_inputs", {"left": X}, r"lacks the input\(s\) right"),
        ("two_inputs", {"left": X, "right": X}, "for 'right' has shape"),
    ],
)  # fmt: skip
def test_real_inputs_that_do_not_fit(name, data, message):
    with pytest.raises(ValueError, match=message):
        take_inputs(data, separated(name))


# The input's range ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, message",
    [
        ((1, -1), r"input_range is \(1, -1\); low and high must be finite, and low < high"),
        ((0, 0), "low < high"), ((0, np.inf), "finite"), ((np.nan, 1), "finite"),
        (5, "input_range is 5; give two numbers"), ("ab", "give two numbers"), ((1, 2, 3), "give two numbers"),
    ],
)  # fmt: skip
def test_a_wrong_input_range_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        check_input_range(given)


def test_a_given_range_is_taken():
    (found,) = given_by_input(check_input_range([np.float32(-1), 2]), ["x"])
    assert (found.low, found.high, found.origin) == (-1.0, 2.0, "given")


@each([*INPUTS, *TOLD])
def test_a_range_is_found_for_every_kind_of_input(name):
    found = find_input_ranges(separated(name))[0]
    assert found.low < found.high and found.origin


def test_preprocessing_layers_tell_the_range():
    found = find_input_ranges(separated("rescaling"))[0]
    assert (found.low, found.high) == (0, 255) and "Rescaling layer 'rescale'" in found.origin
    found = find_input_ranges(separated("normalization"))[0]
    assert found.low == pytest.approx(0.4 - 3 * 0.2) and found.high == pytest.approx(0.6 + 3 * np.sqrt(0.06))
    assert "Normalization layer 'normalize'" in found.origin
    found = find_input_ranges(separated("no_bias"))[0]
    assert (found.low, found.high) == (-1, 1) and found.origin.startswith("assumed")


def model_trained_on(ends):
    model = fresh("plain")
    x = procedural_images(40, SHAPE, *ends, seed=11)
    y = np.asarray(keras.Model(model.inputs, model.get_layer("a_conv").output)(x))
    bn = model.get_layer("a_bn")
    bn.moving_mean.assign(y.mean(axis=(0, 1, 2)))
    bn.moving_variance.assign(y.var(axis=(0, 1, 2)))
    return separate(Graph.from_keras(model)).graph


@pytest.mark.parametrize("ends", [(-12.0, 12.0), (0.0, 20.0), (-700.0, 700.0), (-40.0, 25.0)])
@pytest.mark.slow
def test_uncommon_ranges_are_found_within_a_factor_of_two(ends):
    found = find_input_ranges(model_trained_on(ends))[0]
    assert 0.5 < (found.high - found.low) / (ends[1] - ends[0]) < 2


@pytest.mark.parametrize("ends", COMMON_RANGES)
def test_the_range_that_a_model_was_trained_on_is_found(ends):
    found = find_input_ranges(model_trained_on(ends))[0]
    assert (found.low, found.high) == ends and "estimated from the statistics of 'a_bn'" in found.origin
