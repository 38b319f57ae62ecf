import functools

import keras
import numpy as np
import pytest
from tiny_models import every_kind, folded, separated

from tfdatafree.inputs.make import make_inputs
from tfdatafree.measuring.gaussian import gaussian_walk
from tfdatafree.measuring.tensor_statistics import collect
from tfdatafree.measuring.walks import image_walk
from tfdatafree.model.batchnorm import output_moments
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import activation_quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.activation_ranges import between, choose_ranges, widest


@functools.cache
def statistics(name: str, source: str):
    teacher = folded(name)
    if source == "gaussian":
        return teacher, collect(gaussian_walk(separated(name), samples=500))
    ends = (0, 255) if name == "uint8_input" else (-1, 1)
    return teacher, collect(image_walk(teacher, make_inputs(teacher, 4, ends)))


@every_kind
@pytest.mark.parametrize("method", ["min_max", "percentile", "k_sigma"])
@pytest.mark.parametrize("source", ["images", "gaussian"])
def test_every_tensor_of_the_graph_gets_a_range_that_contains_zero(name, method, source):
    teacher, found = statistics(name, source)
    ranges = choose_ranges(teacher, found, method)
    assert ranges.keys() == teacher.specs.keys()
    assert all(r.low <= 0 <= r.high for r in ranges.values())
    if method == "min_max":
        assert all(r == Range(min(found[t].low, 0), max(found[t].high, 0)) for t, r in ranges.items())
    if method == "percentile":
        assert all(r.low >= min(found[t].low, 0) and r.high <= max(found[t].high, 0) for t, r in ranges.items())


@pytest.mark.parametrize("name", ["plain", "branch_add", "hard_swish"])
@pytest.mark.slow
def test_a_searched_range_is_closest_to_the_samples(name):
    teacher, found = statistics(name, "images")
    searched, widest = choose_ranges(teacher, found, "search", bits=4), choose_ranges(teacher, found, "min_max")
    gains = []
    for tensor, s in found.items():
        errors = [np.sum((activation_quantizer(r.low, r.high, 4)(s.samples) - s.samples) ** 2)
                  for r in (searched[tensor], widest[tensor])]  # fmt: skip
        assert errors[0] <= errors[1] * 1.01
        gains.append(errors[1] / max(errors[0], 1e-12))
    assert max(gains) > 1.2


def test_16_bit_searches_are_symmetric():
    teacher, found = statistics("plain", "images")
    assert all(r.low == -r.high for r in choose_ranges(teacher, found, "search", bits=16).values())


def test_six_deviations_around_the_means_of_a_batchnorm():
    teacher, found = statistics("plain", "gaussian")
    ranges = choose_ranges(teacher, found, "k_sigma")
    mean, sd = output_moments(separated("plain").layers["a_bn"])
    assert ranges["a_bn"].low == pytest.approx((mean - 6 * sd).min(), rel=5e-3)
    assert ranges["a_bn"].high == pytest.approx((mean + 6 * sd).max(), rel=5e-3)
    # ReLU makes of that range what it makes of every value in it.
    assert ranges["a_relu"].low == 0 and ranges["a_relu"].high == pytest.approx(ranges["a_bn"].high)
    capped = choose_ranges(*statistics("depthwise", "gaussian"), "k_sigma")
    assert capped["dw_relu6"].low == 0 and capped["dw_relu6"].high <= 6


@pytest.mark.parametrize(
    "name, tensor", [("softmax", "head_softmax"), ("sigmoid", "head_sigmoid"), ("tanh", "head_tanh")]
)
def test_six_deviations_stay_within_a_bounded_activation(name, tensor):
    ranges = choose_ranges(*statistics(name, "gaussian"), "k_sigma")
    assert -1 <= ranges[tensor].low and ranges[tensor].high <= 1


def test_a_function_without_a_value_at_the_end_of_its_range_keeps_the_range_that_was_seen():
    inputs = keras.Input((4,))
    graph = Graph.from_keras(keras.Model(inputs, keras.ops.log(keras.ops.sigmoid(keras.ops.abs(inputs)))))
    found = collect(image_walk(graph, [np.linspace(-3, 3, 32, dtype="float32").reshape(8, 4)]))
    output = graph.outputs[0]
    range_ = choose_ranges(graph, found, "k_sigma")[output]
    assert np.isclose(range_.low, np.log(0.5), atol=0.05) and range_.high == 0


def test_between_two_estimates():
    a = {"x": Range(-1, 8), "y": Range(0, 4), "one_sided": Range(0, 1)}
    b = {"x": Range(-9, 2), "z": Range(0, 1), "one_sided": Range(-3, 1)}
    assert between(a, b) == {"x": Range(-3, 4), "y": Range(0, 4), "one_sided": Range(-3, 1)}
    # However wrong one of them is, the other counts as much.
    assert between({"x": Range(0, 1)}, {"x": Range(0, 1e6)})["x"].high == pytest.approx(1e3)


def test_widest_of_two_estimates():
    a, b = {"x": Range(-1, 8), "y": Range(0, 4)}, {"x": Range(-9, 2), "z": Range(0, 1)}
    assert widest(a, b) == {"x": Range(-9, 8), "y": Range(0, 4)}


def test_statistics_of_tensors_that_folding_removed_are_passed_over():
    teacher, found = statistics("plain", "gaussian")
    assert "a_conv" in found and "a_conv" not in choose_ranges(teacher, found, "min_max")
