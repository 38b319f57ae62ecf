"""Inputs are held against the statistics of all BatchNorms, and matched to them where they miss them."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import without_metadata

from tfdatafree import Generate, compress
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.input_range import find_input_ranges
from tfdatafree.inputs.make import make_inputs
from tfdatafree.inputs.mismatch import measure_mismatch
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.model.graph import Graph
from tfdatafree.recipe.recipe import PRESETS


def trained_on(x: np.ndarray, part: float = 1.0, seed: int = 0) -> keras.Model:
    """Three convolutions whose BatchNorms hold the statistics of `x`; the last one only this part of the variance."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(x.shape[1:])
    y = inputs
    for at in range(3):
        y = L.Conv2D(12, 3, padding="same", use_bias=False)(y)
        bn = L.BatchNormalization(name=f"bn{at}")
        y = bn(y)
        seen = np.asarray(keras.Model(inputs, bn.input)(x))
        bn.moving_mean.assign(seen.mean(axis=(0, 1, 2)))
        bn.moving_variance.assign(seen.var(axis=(0, 1, 2)) * (part if at == 2 else 1))
        y = L.ReLU()(y)
    return keras.Model(inputs, L.Dense(4, name="logits")(L.GlobalAveragePooling2D()(y)))


def test_the_mismatch_of_the_training_data_is_none_and_that_of_others_is_not():
    x = procedural_images(8, (16, 16, 1), seed=4)
    graph = separate(Graph.from_keras(trained_on(x))).graph
    own, other = measure_mismatch(graph, [x]), measure_mismatch(graph, [3 * x])
    assert own.mean < 1e-4 < 0.5 < other.mean
    assert other.nats[other.worst] == max(other.nats.values()) and set(other.nats) == {"bn0", "bn1", "bn2"}


@pytest.mark.slow
def test_inputs_that_miss_the_statistics_are_matched_and_the_report_says_how_well():
    model = trained_on(procedural_images(32, (16, 16, 1), seed=4), part=0.05)

    def fit(effort: str):
        recipe = dataclasses.replace(PRESETS["int8"], generate=Generate(images=8, effort=effort))
        return compress(model, recipe, input_range=(0, 1), verbose=0)

    fast, auto = fit("fast"), fit("auto")
    assert fast.report.input_fit.mean > 2 > auto.report.input_fit.mean / fast.report.input_fit.mean * 2
    assert f"inputs fit  {auto.report.input_fit}" in str(auto.report)
    assert auto.tflite == fit("auto").tflite, "the same seed gives the same bytes"
    assert "miss the statistics" in fast.report.warnings[0] and "bn2" in fast.report.warnings[0]


@pytest.mark.slow
def test_inputs_that_fit_are_left_alone_and_real_ones_are_not_judged():
    x = procedural_images(32, (16, 16, 1), seed=4)
    model = trained_on(x)
    auto = compress(model, input_range=(0, 1), verbose=0)
    fast = dataclasses.replace(PRESETS["int8"], generate=Generate(effort="fast"))
    found = compress(model, fast, input_range=(0, 1), verbose=0)
    assert without_metadata(auto.tflite) == without_metadata(found.tflite)
    assert compress(model, representative_data=x, verbose=0).report.input_fit is None


def test_matched_inputs_stay_in_the_range_and_repeat():
    graph = separate(Graph.from_keras(trained_on(procedural_images(32, (16, 16, 1), seed=1)))).graph
    (found,) = find_input_ranges(graph, (0, 1))
    matched = dataclasses.replace(found, values=procedural_images(3, (16, 16, 1), seed=2))
    made = make_inputs(graph, 7, (matched,))[0]
    np.testing.assert_array_equal(made, np.concatenate([matched.values] * 3)[:7])


def test_an_effort_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="effort is 'all'; choose one of 'fast', 'auto', 'best'"):
        Generate(effort="all")
