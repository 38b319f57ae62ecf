import keras
import numpy as np
import pytest
from tiny_models import build, every_model, outputs_of, random_inputs, relative_difference, separated, state

import tfdatafree
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.errors import UnsupportedModelError
from tfdatafree.model.batchnorm import is_batchnorm, output_moments, scale_and_shift
from tfdatafree.model.graph import Graph

# Every BatchNorm of the tiny models that does not go into a layer, and why.
KEPT = {
    "shared_layer": {"bn": r"'conv' is shared by several calls; 'add' \(Add\) after it has no weights"},
    "shared_batchnorm_foldable_once": {"bn": "stands at the model's input; it feeds 2 layers"},
    "sequential": {"bn": r"'conv_relu' \(Activation\) before it has no weights.*'pool' \(GlobalAveragePooling2D\)"},
    "batchnorm_before_same_conv": {"bn": r"'max' \(MaxPooling2D\) before it has no weights.*'conv' pads with zeros"},
    "batchnorm_at_the_input": {"bn": "stands at the model's input; 'a_conv' pads with zeros"},
    "batchnorm_preactivation": {"bn": "'stem' also feeds other layers; 'relu'"},
    "batchnorm_of_a_vector": {"bn": r"'pool' \(GlobalAveragePooling2D\) before it.*'relu' \(ReLU\) after it"},
    "batchnorms_in_a_row": {"bn_c": r"'max' \(MaxPooling2D\) before it.*'bn_d' \(BatchNormalization\) after it"},
    "batchnorm_on_another_axis": {"bn": "another axis than the last"},
    "batchnorm_before_flatten_dense": {"bn": r"'max' .*'flatten' \(Flatten\) after it has no weights"},
    "conv_is_an_output": {"bn": "'conv' is itself an output of the model; 'relu'"},
    "grouped": {"before_grouped": "'max' .*'conv' is grouped"},
    "conv1d": {"bn_2": r"'max' \(MaxPooling1D\) before it.*'pool' \(GlobalAveragePooling1D\) after it"},
}


@every_model
def test_folding_keeps_the_function_and_leaves_no_batchnorm(name):
    graph = separated(name)
    nodes, layers = list(graph.nodes), dict(graph.layers)
    inputs = random_inputs(graph)
    folded = fold(graph).graph
    assert relative_difference(folded.predict(inputs), graph.predict(inputs)) < 1e-5
    assert not any(is_batchnorm(layer) for layer in folded.layers.values())
    assert (graph.nodes, graph.layers) == (nodes, layers)
    assert (folded.inputs, folded.output_names) == (graph.inputs, graph.output_names)


@every_model
def test_each_batchnorm_that_is_kept_has_its_reason(name):
    kept = fold(separated(name)).kept
    wanted = KEPT.get(name, {})
    assert kept.keys() == wanted.keys()
    for node, reason in wanted.items():
        assert_matches(reason, kept[node])


def assert_matches(pattern: str, text: str):
    with pytest.raises(RuntimeError, match=pattern):
        raise RuntimeError(text)


@every_model
def test_tensors_keep_their_names_and_values(name):
    """What was recorded by tensor name before folding is true afterwards."""
    graph = separated(name)
    folded = fold(graph).graph
    inputs = random_inputs(graph)
    before = {t: np.asarray(live[t]) for node, live in graph.walk(inputs) for t in node.outputs}
    after = {t: np.asarray(live[t]) for node, live in folded.walk(inputs) for t in node.outputs}
    assert set(after) <= set(before)
    for tensor, value in after.items():
        assert relative_difference([value], [before[tensor]]) < 1e-5, tensor
    producers, consumers = graph.producers(), graph.consumers()
    for tensor in set(before) - set(after):
        # Only what stood between a layer and its BatchNorm is gone.
        (reader,) = consumers[tensor]
        assert any(is_batchnorm(graph.layer_of(node)) for node in (producers[tensor], reader)), tensor


def test_the_folded_layer_writes_its_batchnorms_tensor():
    folded = fold(separated("plain")).graph
    assert [(n.name, n.output) for n in folded.nodes][:3] == [
        ("a_conv", "a_bn"),
        ("a_relu", "a_relu"),
        ("b_conv", "b_bn"),
    ]


def test_a_wrong_statistic_would_be_noticed():
    graph = separated("plain")
    inputs = random_inputs(graph)
    wanted = graph.predict(inputs)
    for weight in ("gamma", "beta", "moving_mean", "moving_variance"):
        changed = graph.copy()
        layer = changed.layers["a_bn"]
        changed.layers["a_bn"] = layer.with_weights(**{weight: layer.weight(weight) * 1.001})
        assert relative_difference(fold(changed).graph.predict(inputs), wanted) > 1e-5, weight


@pytest.mark.parametrize(
    "name, tensor",
    [
        ("batchnorm_before_valid_conv", "conv"),
        ("batchnorm_before_pointwise_conv", "conv"),
        ("depthwise_multiplier", "dw_valid"),
    ],
)
def test_a_batchnorm_before_a_layer_goes_into_it(name, tensor):
    unfolded = separated(name)
    folded = fold(unfolded).graph
    assert len(folded.nodes) == len(unfolded.nodes) - sum(is_batchnorm(unfolded.layer_of(n)) for n in unfolded.nodes)
    assert np.any(folded.layers[tensor].weight("kernel") != unfolded.layers[tensor].weight("kernel"))


def test_a_kept_batchnorm_is_a_depthwise_convolution_on_feature_maps_and_a_rescaling_elsewhere():
    for name, node, wanted in (
        ("batchnorm_before_same_conv", "bn", "DepthwiseConv2D"),
        ("batchnorm_of_a_vector", "bn", "Rescaling"),
        ("batchnorm_on_another_axis", "bn", "Rescaling"),
        ("conv1d", "bn_2", "Rescaling"),
    ):
        folded = fold(separated(name)).graph
        assert folded.layer_of(folded.node(node)).class_name == wanted, name


@pytest.mark.slow
def test_scale_shift_and_moments_are_those_of_the_layer():
    for options in ({}, {"scale": False}, {"center": False}, {"scale": False, "center": False}):
        bn = keras.layers.BatchNormalization(epsilon=0.1, **options)
        bn.build((None, 4))
        random = np.random.default_rng(0)
        for variable in bn.weights:
            variable.assign(
                random.uniform(0.2, 1, 4) * [1, -1, 1, 1] if variable.name == "gamma" else random.uniform(0.2, 1, 4)
            )
        layer = Graph.from_keras(keras.Sequential([keras.Input((4,)), bn])).layers[bn.name]
        x = random.normal(size=(400_000, 4)) * np.sqrt(layer.weight("moving_variance")) + layer.weight("moving_mean")
        y = np.asarray(bn(x.astype(np.float32)))
        g, t = scale_and_shift(layer)
        np.testing.assert_allclose(g * x + t, y, atol=1e-5)
        mean, sd = output_moments(layer)
        np.testing.assert_allclose(y.mean(axis=0), mean, atol=0.01)
        np.testing.assert_allclose(y.std(axis=0), sd, rtol=0.01)


@pytest.mark.parametrize("name", ["plain", "nested", "sequential", "dict_outputs", "mixed_float16", "shared_layer"])
def test_fold_batchnorm_gives_back_a_new_model(name):
    model = build(name)
    before = state(model)
    inputs = random_inputs(model)
    result = tfdatafree.fold_batchnorm(model)
    assert isinstance(result.model, keras.Model)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in result.model._flatten_layers())
    tolerance = 2e-3 if name == "mixed_float16" else 1e-5
    assert relative_difference(outputs_of(result.model, inputs), outputs_of(model, inputs)) < tolerance
    assert result.kept.keys() == KEPT.get(name, {}).keys()
    assert [x.name for x in result.model.inputs] == [x.name for x in model.inputs]
    assert state(model) == before


def test_fold_batchnorm_refuses_what_it_cannot_read():
    with pytest.raises(UnsupportedModelError, match="never built"):
        tfdatafree.fold_batchnorm(keras.Sequential([keras.layers.Dense(3)]))
