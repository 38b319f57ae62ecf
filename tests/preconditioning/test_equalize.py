import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import outputs_of, random_inputs, randomized, relative_difference

import tfdatafree
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.separate import separate
from tfdatafree.model.batchnorm import output_moments
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of, layout_of, output_last
from tfdatafree.preconditioning.equalize import TOLERANCE, equalize_graph, equalize_unfolded
from tfdatafree.preconditioning.scale_channels import find_groups


def unbalanced(model, seed=0):
    """The model with the output channels of its convolutions scaled by anything from 0.05 to 20."""
    randomized(model, seed)
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, L.Conv2D):
            kernel = layer.kernel.numpy()
            layer.kernel.assign(kernel * np.exp(random.uniform(-3, 3, kernel.shape[-1])))
    return model


def chain(activation, between=()):
    x = inputs = keras.Input((8, 8, 3))
    x = activation()(L.Conv2D(6, 3, name="a")(x))
    for layer in between:
        x = layer()(x)
    x = activation()(L.DepthwiseConv2D(3, padding="same", name="b")(x))
    return unbalanced(keras.Model(inputs, L.Conv2D(4, 1, name="c")(x)))


def residual():
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(5, 3, padding="same", name="stem")(x)
    y = L.Conv2D(5, 1, name="branch_end")(L.ReLU()(L.Conv2D(4, 3, padding="same", name="branch")(x)))
    x = L.ReLU()(L.Add()([x, y]))
    return unbalanced(keras.Model(inputs, L.Conv2D(2, 1, name="head")(x)))


HOMOGENEOUS = {
    "relu": lambda: L.ReLU(),
    "leaky": lambda: L.LeakyReLU(0.2),
    "prelu": lambda: L.PReLU(shared_axes=[1, 2]),
    "linear": lambda: L.Activation("linear"),
}
BETWEEN = {
    "nothing": (),
    "padding": (lambda: L.ZeroPadding2D(1),),
    "pooling": (lambda: L.MaxPooling2D(2), lambda: L.AveragePooling2D(1)),
    "dropout": (lambda: L.Dropout(0.5), lambda: L.SpatialDropout2D(0.5), lambda: L.GaussianNoise(1.0)),
    "nothing at all": (lambda: L.Identity(), lambda: L.ActivityRegularization(0.1)),
}


@pytest.mark.parametrize("activation", HOMOGENEOUS)
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.slow
def test_function_is_kept_and_maxima_meet(activation, between):
    model = chain(HOMOGENEOUS[activation], BETWEEN[between])
    inputs = random_inputs(model)
    result = tfdatafree.equalize(model)
    assert relative_difference(outputs_of(result.model, inputs), outputs_of(model, inputs)) < 1e-5
    assert set(result.scales) == {"a", "b"}
    rows = np.abs(result.model.get_layer("a").kernel.numpy()).max(axis=(0, 1, 2))
    columns = np.abs(result.model.get_layer("b").kernel.numpy()).max(axis=(0, 1, 3))
    # Neighbouring pairs pull on each other, so the maxima meet as closely as the rounds were repeated.
    np.testing.assert_allclose(rows, columns, rtol=0.2)
    before = np.abs(model.get_layer("a").kernel.numpy()).max(axis=(0, 1, 2))
    assert rows.max() / rows.min() < before.max() / before.min()


def test_tensors_joined_by_add_share_one_scale():
    model = residual()
    inputs = random_inputs(model)
    result = tfdatafree.equalize(model)
    assert relative_difference(outputs_of(result.model, inputs), outputs_of(model, inputs)) < 1e-5
    groups, _ = find_groups(fold(separate(Graph.from_keras(model)).graph).graph)
    joined = next(group for group in groups if len(group.producers) > 1)
    assert {node.name for node in joined.producers} == {"stem", "branch_end"}
    assert {node.name for node in joined.consumers} == {"branch", "head"}


def test_rounds_end_when_the_scales_are_near_one():
    graph = fold(separate(Graph.from_keras(chain(HOMOGENEOUS["relu"]))).graph).graph
    first = equalize_graph(graph)
    second = equalize_graph(first.graph)
    assert 1 < first.rounds < 50 and second.rounds == 1
    assert all(abs(np.mean(scale) - 1) < TOLERANCE for scale in second.scales.values())


def test_half_the_power_goes_half_the_way():
    graph = fold(separate(Graph.from_keras(residual())).graph).graph
    half = equalize_graph(graph, power=0.5)
    assert half.rounds == 1

    def spread(g):
        rows = np.abs(output_last(kernel_of(g.layers["branch"]), layout_of(g.layers["branch"]))).max(axis=0)
        return np.log(rows).std()

    assert spread(equalize_graph(graph).graph) < spread(half.graph) < spread(graph)


@pytest.mark.parametrize("cap", [lambda: L.ReLU(6), lambda: L.Activation("relu6"), lambda: L.Activation("tanh")])
def test_capped_activations_are_left_alone_with_a_reason(cap):
    model = chain(cap)
    result = tfdatafree.equalize(model)
    assert result.scales == {}
    assert "does not scale with its input" in result.kept["a"]
    for old, new in zip(model.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6)


def test_outputs_and_shared_layers_are_left_alone_with_a_reason():
    x = inputs = keras.Input((8, 8, 3))
    first = L.Conv2D(4, 1, name="first")(x)
    shared = L.Conv2D(4, 1, name="shared")
    model = randomized(keras.Model(inputs, [first, shared(shared(first))]))
    result = tfdatafree.equalize(model)
    assert result.scales == {}
    assert "output of the model" in result.kept["first"]
    assert "shared" in result.kept["shared"] or "output" in result.kept["shared"]


def test_the_model_given_is_not_changed_and_a_bad_power_is_refused():
    model = chain(HOMOGENEOUS["relu"])
    before = model.get_weights()
    tfdatafree.equalize(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(ValueError, match=r"power is 1\.5; choose a number above 0 and at most 1"):
        tfdatafree.equalize(model, power=1.5)


def with_batchnorms(**options):
    x = inputs = keras.Input((8, 8, 3))
    for name, filters in (("a", 6), ("b", 5), ("c", 4)):
        x = L.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
        x = L.ReLU(name=f"{name}_relu")(L.BatchNormalization(name=f"{name}_bn", **options)(x))
    return unbalanced(keras.Model(inputs, L.Conv2D(2, 1, name="head")(x)))


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
def test_before_folding_the_scales_go_into_gamma_and_beta(options):
    model = with_batchnorms(**options)
    inputs = random_inputs(model)
    unfolded = separate(Graph.from_keras(model)).graph
    scaled = equalize_unfolded(unfolded)
    assert relative_difference(scaled.graph.predict(inputs), outputs_of(model, inputs)) < 1e-5
    assert not {"a", "b", "c"} & scaled.kept.keys()
    # Folding afterwards gives what equalizing the folded graph gives, and the statistics follow the channel.
    folded = fold(scaled.graph).graph
    expected = equalize_graph(fold(unfolded).graph)
    for key in ("a", "b", "c", "head"):
        np.testing.assert_allclose(kernel_of(folded.layers[key]), kernel_of(expected.graph.layers[key]), rtol=1e-4)
    before, after = output_moments(unfolded.layers["a_bn"]), output_moments(scaled.graph.layers["a_bn"])
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old * expected.scales["a"], rtol=1e-5)


def test_before_folding_groups_behind_an_unfoldable_batchnorm_are_left_alone():
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, name="a")(x)
    x = L.Conv2D(4, 1, name="b")(L.BatchNormalization(name="bn")(L.ReLU()(x)))
    x = L.Add()([L.BatchNormalization(name="second")(L.ReLU()(x)), x])
    model = unbalanced(keras.Model(inputs, L.Conv2D(2, 1, name="head")(x)))
    sample = random_inputs(model)
    scaled = equalize_unfolded(separate(Graph.from_keras(model)).graph)
    assert relative_difference(scaled.graph.predict(sample), outputs_of(model, sample)) < 1e-5
    assert scaled.kept
