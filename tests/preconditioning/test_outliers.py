import dataclasses

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import build, every_model, outputs_of, random_inputs, randomized, relative_difference, separated

import tfdatafree
from tfdatafree import PRESETS
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.model.operations import cap_of
from tfdatafree.preconditioning.outlier_scales import Side, outlier_scales
from tfdatafree.preconditioning.outliers import scale_outlier_channels

ENDS = (-1.0, 1.0)


def outlying(reach=0.1, cap=6.0):
    """A depthwise kernel with one weight 100 times as large as any other, reading a channel that stays below `reach`."""
    x = inputs = keras.Input((12, 12, 3))
    x = L.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = L.ReLU(cap, name="cap")(L.BatchNormalization(name="before")(x))
    x = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = L.ReLU(cap)(L.BatchNormalization()(x))
    x = L.Conv2D(8, 1)(x)
    model = randomized(keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x))))
    before, depthwise = model.get_layer("before"), model.get_layer("depthwise")
    before.gamma.assign(np.where(np.arange(8) == 3, reach / 5, 0.8))
    before.beta.assign(np.where(np.arange(8) == 3, reach / 5, 1.0))
    kernel = np.clip(depthwise.kernel.numpy(), -0.3, 0.3)
    kernel[1, 1, 3] = 30.0
    depthwise.kernel.assign(kernel)
    return model


def unfolded_of(model):
    return separate(Graph.from_keras(model)).graph


def sides(random, channels=6, outlier=40.0):
    """A pointwise kernel, and a depthwise one with an outlier on channel 2."""
    pointwise = Side(random.normal(size=(4, channels)), np.eye(4, dtype=np.float32)[None], np.ones(channels), False)
    kernel = random.normal(size=(9, channels))
    kernel[4, 2] = outlier
    covariance = np.broadcast_to(np.eye(9, dtype=np.float32), (channels, 9, 9))
    return pointwise, Side(kernel, covariance, np.ones(channels), True)


def total(before, after, scale):
    return before.error_with_outputs(scale, 8) + after.error_with_inputs(scale, 8)


def test_an_outlier_is_scaled_as_far_as_its_cap_is_far():
    random = np.random.default_rng(0)
    before, after = sides(random)
    values = random.uniform(0, 0.2, (512, 6))  # the cap is 6: twenty times as far
    scale = outlier_scales(before, after, values, 6.0, np.ones(6))
    assert scale[2] > 5 and total(before, after, scale) < 0.5 * total(before, after, np.ones(6))
    # where every value is at the cap already, any scaling up would cut it
    scale = outlier_scales(before, after, np.full((512, 6), 6.0), 6.0, np.full(6, 1e6))
    np.testing.assert_array_equal(scale, 1)


def test_no_scales_are_worse_than_none():
    for seed in range(20):
        random = np.random.default_rng(seed)
        before, after = sides(random, outlier=random.uniform(1, 50))
        values = random.normal(1, random.uniform(0.1, 3), (512, 6))
        scale = outlier_scales(before, after, values, 6.0, np.ones(6))
        assert total(before, after, scale) <= total(before, after, np.ones(6))


def test_the_function_is_kept_where_no_cap_is_reached():
    model = outlying(cap=1e4)
    unfolded = unfolded_of(model)
    scaled = scale_outlier_channels(unfolded, make_inputs(unfolded, 8, ENDS))
    assert scaled.scales
    inputs = [np.random.default_rng(1).uniform(*ENDS, (4, 12, 12, 3)).astype(np.float32)]
    assert relative_difference(scaled.graph.predict(inputs), outputs_of(model, inputs)) < 1e-4
    ratio = scaled.graph.layers["before"].weight("gamma") / unfolded.layers["before"].weight("gamma")
    assert ratio[3] > 5 * np.delete(ratio, 3).max()


@pytest.mark.slow
def test_one_step_per_kernel_gets_finer():
    model = outlying()
    x = np.random.default_rng(3).uniform(*ENDS, (64, 12, 12, 3)).astype(np.float32)
    wanted = model.predict(x, verbose=0)
    recipe = PRESETS["int8_per_tensor"]

    def made(scale):
        quantize = dataclasses.replace(recipe.quantize, activation_bits=16, edge_dtype="float32")
        options = dataclasses.replace(recipe, scale_outliers=scale, quantize=quantize)
        return tfdatafree.compress(model, options, input_range=ENDS, verbose=0)

    scaled, plain = made(True), made(False)
    steps = [float(result.weight_grids["depthwise"].scale) for result in (scaled, plain)]
    assert steps[0] < 0.5 * steps[1]
    # With the weights of the file, and nothing else rounded.
    error = [np.linalg.norm(result.built.graph.predict([x])[0] - wanted) for result in (scaled, plain)]
    assert error[0] < 0.7 * error[1]
    assert any("scale_outliers=True the float outputs move by" in note for note in scaled.report.notes.values())
    assert any("outlying weights" in note for note in scaled.report.notes.values())
    operators = [sorted(layer.operation for layer in made.report.layers) for made in (scaled, plain)]
    assert operators[0] == operators[1], "no operator is added"


@every_model
def test_any_model_comes_through(name):
    unfolded = separated(name)
    scaled = scale_outlier_channels(unfolded, make_inputs(unfolded, 4, ENDS))
    inputs = random_inputs(unfolded)
    capped = any(cap_of(unfolded.operation_of(node)) is not None for node in unfolded.nodes)
    assert capped or not scaled.scales
    assert bool(scaled.scales) == bool(scaled.notes) == bool(scaled.inexact)
    if not scaled.scales:
        assert relative_difference(scaled.graph.predict(inputs), unfolded.predict(inputs)) == 0


def test_a_reader_whose_errors_cannot_be_weighed_is_left_alone_with_a_reason():
    x = inputs = keras.Input((8, 8, 3))
    x = L.ReLU(6)(L.Conv2D(6, 3, name="writer")(x))
    model = randomized(keras.Model(inputs, L.DepthwiseConv2D(3, name="last")(x)))
    unfolded = unfolded_of(model)
    scaled = scale_outlier_channels(unfolded, make_inputs(unfolded, 4, ENDS))
    assert scaled.scales == {} and "no later layer tells what errors cost" in scaled.kept["writer"]


@pytest.mark.slow
def test_nothing_is_said_where_nothing_was_scaled():
    compressed = tfdatafree.compress(build("plain"), "int8_per_tensor", input_range=ENDS, verbose=0)
    assert not any("float outputs move" in note for note in compressed.report.notes.values())


def test_channels_that_are_pooled_first_are_left_alone_with_a_reason():
    x = inputs = keras.Input((8, 8, 3))
    x = L.ReLU(6)(L.Conv2D(6, 3, name="last")(x))
    model = randomized(keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x))))
    unfolded = unfolded_of(model)
    scaled = scale_outlier_channels(unfolded, make_inputs(unfolded, 4, ENDS))
    assert scaled.scales == {} and "pooled before they are read" in scaled.kept["last"]
