import dataclasses

import numpy as np
import pytest
from tiny_models import every_kind, folded

from tfdatafree.measuring.importance import channel_importance
from tfdatafree.model.kernels import find_layout, kernel_of, layout_of
from tfdatafree.numerics.affine import weight_quantizer
from tfdatafree.numerics.second_moment import ROUNDING_DAMPING as DAMPING
from tfdatafree.numerics.second_moment import output_errors
from tfdatafree.preconditioning.equalize import equalize_graph
from tfdatafree.preconditioning.scale_channels import find_groups
from tfdatafree.quantization.rounding import Rounding, round_graph
from tfdatafree.quantization.weight_scales import FRACTIONS, search_scale


def layer(seed=0, inputs=12, outputs=6):
    random = np.random.default_rng(seed)
    matrix = random.standard_t(3, size=(inputs, outputs)).astype(np.float32)
    mixing = random.normal(size=(inputs, inputs))
    return matrix, (mixing @ mixing.T)[None].astype(np.float32)


@pytest.mark.parametrize("channel_axis", [None, 1])
@pytest.mark.parametrize("bits", [4, 8])
def test_no_fraction_of_the_step_is_better_than_the_chosen_one(channel_axis, bits):
    matrix, covariance = layer()
    whole = weight_quantizer(matrix, bits, channel_axis)
    chosen = search_scale(matrix, covariance, whole)
    best = output_errors(chosen(matrix) - matrix, covariance)
    for fraction in FRACTIONS:
        other = dataclasses.replace(whole, scale=np.asarray(whole.scale) * fraction)
        errors = output_errors(other(matrix) - matrix, covariance)
        if channel_axis is None:
            assert best.sum() <= errors.sum() * (1 + 1e-5)
        else:
            assert np.all(best <= errors * (1 + 1e-5))


def test_errors_are_the_variance_that_a_change_makes():
    matrix, covariance = layer(inputs=3, outputs=2)
    x = np.random.default_rng(1).multivariate_normal(np.zeros(3), covariance[0], size=200_000)
    ridge = DAMPING * np.trace(covariance[0]) / 3 * np.sum(np.square(matrix), axis=0)
    np.testing.assert_allclose(output_errors(matrix, covariance), (x @ matrix).var(axis=0) + ridge, rtol=0.02)


def test_one_step_serves_the_outputs_that_matter():
    matrix, covariance = layer()
    matrix[:, 0] *= 20  # one output with huge weights, which makes the grid coarse for all others
    whole = weight_quantizer(matrix, 4)
    others = search_scale(matrix, covariance, whole, np.array([0, 1, 1, 1, 1, 1.0]))
    first = search_scale(matrix, covariance, whole, np.array([1, 0, 0, 0, 0, 0.0]))
    assert others.scale < first.scale
    of_others = [output_errors(q(matrix) - matrix, covariance)[1:].sum() for q in (others, first)]
    assert of_others[0] < of_others[1]


def variances(graph):
    random = np.random.default_rng(5)
    return {
        tensor: random.uniform(0.5, 2, size=spec.shape[-1]) for tensor, spec in graph.specs.items() if spec.shape[-1]
    }


@every_kind
def test_importance_is_positive_and_of_the_tensors_channels(name):
    graph = folded(name)
    found = channel_importance(graph, variances(graph))
    kernels = [node for node in graph.nodes if find_layout(graph.layer_of(node))]
    mixing = [node for node in kernels if layout_of(graph.layer_of(node)).kind != "depthwise"]
    assert {node.inputs[0] for node in mixing} <= found.keys()
    for tensor, weights in found.items():
        assert weights.shape == graph.specs[tensor].shape[-1:]
        assert np.all(weights >= 0)


def test_importance_is_what_the_next_layer_makes_of_an_error():
    graph = folded("branch_add")
    found = channel_importance(graph, variances(graph))
    node = [node for node in graph.nodes if find_layout(graph.layer_of(node))][-1]
    squares = np.square(kernel_of(graph.layer_of(node)))
    squares = squares.reshape(-1, *squares.shape[-2:]).sum(axis=0)
    expected = (squares / variances(graph)[node.output]).mean(axis=1)
    if len(graph.consumers()[node.inputs[0]]) == 1:
        np.testing.assert_allclose(found[node.inputs[0]], expected, rtol=1e-5)


def test_importance_follows_the_scale_of_a_channel():
    graph = folded("branch_add")
    before = channel_importance(graph, variances(graph))
    equalized = equalize_graph(graph)
    scales = equalized.scales
    groups, _ = find_groups(graph)
    after_variances = variances(graph)
    for group in groups:  # a channel times s has variance times s^2
        for node in group.producers:
            after_variances[node.output] *= np.square(scales[group.producers[0].name])
    after = channel_importance(equalized.graph, after_variances)
    assert any(np.any(np.abs(scale - 1) > 0.1) for scale in scales.values()), "something was scaled"
    for group in groups:
        for node in group.producers:
            scale = scales[group.producers[0].name]
            np.testing.assert_allclose(after[node.output] * np.square(scale), before[node.output], rtol=1e-3)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_search_never_adds_to_the_expected_error_of_a_layer(per_channel):
    graph = folded("separable")
    random = np.random.default_rng(0)
    covariances = {}
    for key, found in graph.layers.items():
        layout = find_layout(found)
        if layout is not None and layout.kind in ("conv", "dense"):
            inputs = int(np.prod(kernel_of(found).shape[:-1]))
            mixing = random.normal(size=(inputs, inputs))
            covariances[key] = (mixing @ mixing.T)[None].astype(np.float32)
    assert covariances
    for bits in (4, 8):
        rounding = Rounding(bits=bits, per_channel=per_channel, covariances=covariances, variances=variances(graph))
        plain = round_graph(graph, rounding).kernels
        searched = round_graph(graph, dataclasses.replace(rounding, search=True)).kernels
        assert all(np.all(np.asarray(searched[k].grid.scale) <= np.asarray(plain[k].grid.scale)) for k in plain)
