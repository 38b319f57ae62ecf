import dataclasses

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from scipy import stats
from tiny_models import outputs_of, random_inputs, randomized, relative_difference

import tfdatafree
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.model.cap_layer import ChannelCap
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of
from tfdatafree.model.operations import cap_of
from tfdatafree.numerics.metrics import relative_error
from tfdatafree.numerics.range import Range
from tfdatafree.preconditioning.caps import batchnorm_moments
from tfdatafree.preconditioning.equalize import equalize_unfolded
from tfdatafree.preconditioning.precondition import moved_by_caps, precondition
from tfdatafree.quantization.activation_ranges import within_caps
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.recipe import Generate, Recipe
from tfdatafree.tflite.flatbuffer import File

CAPPED = {
    "ReLU layer": lambda: L.ReLU(6.0),
    "ReLU layer with a slope and a cap of its own": lambda: L.ReLU(0.8, negative_slope=0.1),
    "relu6 by name": lambda: L.Activation("relu6"),
    "relu6 of keras.ops": lambda: ops.relu6,
    "clip of keras.ops": lambda: lambda x: ops.clip(x, 0, 2.0),
}


def capped(activation, spread=2.0, beta=None, normalize=True):
    """Convolution, BatchNorm, cap, depthwise, BatchNorm, cap, convolution; channels scaled unevenly."""
    x = inputs = keras.Input((8, 8, 3))
    for name, layer in (("a", L.Conv2D(6, 3, name="a")), ("b", L.DepthwiseConv2D(3, padding="same", name="b"))):
        x = layer(x)
        x = L.BatchNormalization(name=f"{name}_bn")(x) if normalize else x
        x = activation()(x)
    model = randomized(keras.Model(inputs, L.Conv2D(4, 1, name="c")(x)))
    random = np.random.default_rng(0)
    for name in ("a_bn", "b_bn") if normalize else ():
        layer = model.get_layer(name)
        scale = np.exp(random.uniform(-spread, spread, 6))
        layer.gamma.assign(scale)
        layer.beta.assign(scale if beta is None else np.full(6, beta))
    return model


@pytest.mark.parametrize("activation", CAPPED)
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_a_cap_per_channel_keeps_the_function(activation, power):
    model = capped(CAPPED[activation])
    # Inputs large enough that caps are reached, or moving them would not be noticed.
    inputs = [30 * x for x in random_inputs(model)]
    result = tfdatafree.equalize(model, caps="channel", power=power)
    assert set(result.scales) == {"a", "b"} and all(np.ptp(scale) > 0.1 for scale in result.scales.values())
    assert relative_difference(outputs_of(result.model, inputs), outputs_of(model, inputs)) < 1e-5
    caps = [layer.caps for layer in result.model.layers if isinstance(layer, ChannelCap)]
    cap = {"ReLU layer with a slope and a cap of its own": 0.8, "clip of keras.ops": 2}.get(activation, 6)
    for found, scale in zip(caps, result.scales.values(), strict=True):
        np.testing.assert_allclose(found, cap * scale, rtol=1e-5)


@pytest.mark.parametrize("caps", ["channel", "limit", "drop"])
def test_before_folding_the_same_comes_out(caps):
    model = capped(lambda: L.ReLU(6.0), spread=0.1, beta=0.5)
    inputs = random_inputs(model)
    unfolded = separate(Graph.from_keras(model)).graph
    scaled = equalize_unfolded(unfolded, caps=caps)
    folded, result = fold(scaled.graph).graph, tfdatafree.equalize(model, caps=caps)
    assert relative_difference(folded.predict(inputs), outputs_of(result.model, inputs)) < 1e-5
    assert scaled.kept == result.kept
    for key in ("a", "b", "c"):
        np.testing.assert_allclose(
            kernel_of(folded.layers[key]), result.model.get_layer(key).get_weights()[0], rtol=1e-4
        )
    assert np.any(kernel_of(folded.layers["a"]) != kernel_of(fold(unfolded).graph.layers["a"]))


def probability_of_cap(model: keras.Model | Graph, bn: str, scale=1.0) -> np.ndarray:
    graph = model if isinstance(model, Graph) else Graph.from_keras(model)
    mean, sd = batchnorm_moments(graph)[bn]
    return stats.norm.sf(6.0, mean * scale, sd * scale)


@pytest.mark.parametrize("probability", [1e-6, 1e-3])
def test_limited_scales_keep_channels_below_the_cap(probability):
    model = capped(lambda: L.ReLU(6.0))
    result = tfdatafree.equalize(model, caps="limit", cap_probability=probability)
    moved = 0
    for name in ("a", "b"):
        before, after = (probability_of_cap(model, f"{name}_bn", s) for s in (1.0, result.scales[name]))
        reach = before > probability
        assert reach.any() and not reach.all()
        np.testing.assert_array_equal(result.scales[name][reach], 1)
        assert np.all(after[~reach] <= probability * (1 + 1e-6))
        moved += np.ptp(result.scales[name]) > 0.1
    assert moved == 2
    assert sum(isinstance(layer, L.ReLU) and layer.max_value == 6 for layer in result.model.layers) == 2


def test_caps_are_dropped_only_where_no_channel_reaches_them():
    high = capped(lambda: L.ReLU(6.0), spread=0.1, beta=0.5)
    high.get_layer("b_bn").beta.assign([0, 0, 0, 0, 0, 5.9])
    high.get_layer("a_bn").moving_variance.assign(np.full(6, 1e4))  # inputs for which the statistics hold
    result = tfdatafree.equalize(high, caps="drop")
    assert set(result.scales) == {"a"}
    assert "1 of 6 channels" in result.kept["b"] and "1e-06" in result.kept["b"]
    assert [layer.max_value for layer in result.model.layers if isinstance(layer, L.ReLU)] == [None, 6.0]
    inputs = random_inputs(high)
    assert relative_difference(outputs_of(result.model, inputs), outputs_of(high, inputs)) < 1e-5


@pytest.mark.parametrize("caps", ["limit", "drop"])
def test_without_statistics_a_cap_is_left_alone_with_a_reason(caps):
    model = capped(lambda: L.ReLU(6.0), normalize=False)
    result = tfdatafree.equalize(model, caps=caps)
    assert result.scales == {} and "no BatchNorm writes its input" in result.kept["a"]


def test_what_is_no_cap_stays_refused():
    for operation in (L.ReLU(), L.ReLU(6.0, threshold=1.0), L.Activation("tanh"), L.ReLU(0.0)):
        assert cap_of(operation) is None
    result = tfdatafree.equalize(capped(lambda: L.Activation("hard_silu")), caps="channel")
    assert result.scales == {} and "does not scale with its input" in result.kept["a"]


def test_a_shared_activation_gets_a_cap_for_each_tensor():
    shared = L.ReLU(6.0)
    model = capped(lambda: shared)
    inputs = [30 * x for x in random_inputs(model)]
    result = tfdatafree.equalize(model, caps="channel")
    assert relative_difference(outputs_of(result.model, inputs), outputs_of(model, inputs)) < 1e-5
    first, second = (layer.caps for layer in result.model.layers if isinstance(layer, ChannelCap))
    assert np.any(first != second)


def test_a_model_with_caps_per_channel_saves_and_loads(tmp_path):
    model = capped(lambda: L.ReLU(6.0))
    result = tfdatafree.equalize(model, caps="channel")
    result.model.save(tmp_path / "model.keras")
    inputs = random_inputs(model)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert relative_difference(outputs_of(loaded, inputs), outputs_of(model, inputs)) < 1e-5


@pytest.mark.parametrize("options", [{}, {"activation_bits": 16}, {"per_channel": False}])
@pytest.mark.slow
def test_the_file_caps_in_integers(options):
    recipe = Recipe(
        equalize=True,
        equalize_caps="channel",
        equalize_power=0.5,
        quantize=Quantize(**options),
        generate=Generate(images=4),
    )
    model = capped(lambda: L.ReLU(6.0), 1.0)
    result = tfdatafree.compress(model, recipe, input_range=(-90, 90), verbose=0)
    names = [File.parse(result.tflite).operator_name(op) for op in File.parse(result.tflite).operators]
    assert result.report.integer_only and names.count("MINIMUM") == 2
    rows = {row.name: row for row in result.report.layers}
    # What is capped next ends where the caps do: no integers are spent on what is cut off.
    layers = [layer for layer in result.model.layers if isinstance(layer, ChannelCap)]
    assert len(layers) == 2
    for layer in layers:
        name = layer.name.removesuffix("_cap")
        assert max(rows[name].high, rows[f"{name}_uncapped"].high) <= layer.caps.max() * 1.02


@pytest.mark.slow
def test_the_power_is_an_option_of_the_recipe():
    model = capped(lambda: L.ReLU(6.0), 1.0)
    caps = []
    for power in (0.5, 1.0):
        recipe = Recipe(
            equalize=True, equalize_caps="channel", equalize_power=power, quantize=None, generate=Generate(images=1)
        )
        result = tfdatafree.compress(model, recipe, input_range=(-1, 1), verbose=0).model
        caps.append(next(layer.caps for layer in result.layers if isinstance(layer, ChannelCap)))
    assert np.log(caps[0]).std() < np.log(caps[1]).std()


def test_a_range_ends_at_the_largest_cap():
    x = inputs = keras.Input((4, 4, 2))
    x = L.ReLU(name="free")(L.Conv2D(2, 1, name="conv")(x))
    graph = Graph.from_keras(keras.Model(inputs, ChannelCap([1.0, 3.0], name="cap")(x)))
    ranges = {"conv": Range(-9, 9), "free": Range(0, 9), "cap": Range(0, 2.5)}
    assert within_caps(graph, ranges) == {**ranges, "free": Range(0, 3)}


@pytest.mark.parametrize("caps", ["limit", "drop"])
@pytest.mark.slow
def test_the_report_says_how_far_float_outputs_moved(caps):
    recipe = Recipe(equalize=True, equalize_caps=caps, generate=Generate(images=4))
    model = capped(lambda: L.ReLU(6.0), spread=0.1, beta=0.5)
    note = tfdatafree.compress(model, recipe, input_range=(-1, 1), verbose=0).report.notes[model.name]
    assert f"equalize_caps={caps!r} the float outputs move by" in note and note.endswith("% on 4 generated inputs")
    unfolded = separate(Graph.from_keras(model)).graph
    reference = fold(precondition(unfolded, recipe, (-1, 1)).graph).graph
    moved = []
    for size in (1e-3, 1e3):  # inputs far within, and far beyond what the statistics say
        note = moved_by_caps(unfolded, reference, [size * procedural_images(4, (8, 8, 3), -1, 1)], "")
        moved.append(float(note.split("move by ")[1].split("%")[0]))
    assert moved[0] == 0 and moved[1] > 1


@pytest.mark.zoo
@pytest.mark.slow
def test_a_trained_network_keeps_its_function(zoo):
    model = keras.models.load_model(zoo / "mobilenet_v1_025.keras", compile=False)
    inputs = [procedural_images(2, model.input_shape[1:], -1, 1)]
    result = tfdatafree.equalize(model, caps="channel", power=0.5)
    assert sum(isinstance(layer, ChannelCap) for layer in result.model.layers) == 27
    assert relative_difference(outputs_of(result.model, inputs), outputs_of(model, inputs)) < 1e-4


@pytest.mark.zoo
@pytest.mark.slow
def test_a_trained_networks_file_is_integer_with_its_caps(zoo):
    whole = keras.models.load_model(zoo / "mobilenet_v1_025.keras", compile=False)
    pooled = L.GlobalAveragePooling2D(name="pooled")(whole.get_layer("conv_pw_4_relu").output)
    model = keras.Model(whole.input, pooled)
    recipe = Recipe(
        equalize=True,
        equalize_caps="channel",
        equalize_power=0.5,
        quantize=Quantize(per_channel=False, rounding="nearest"),
        generate=Generate(images=2, samples=200),
    )
    result = tfdatafree.compress(model, recipe, input_range=(-1, 1), verbose=0)
    assert result.report.integer_only
    plain = dataclasses.replace(recipe, equalize=False)
    inputs = procedural_images(4, model.input_shape[1:], -1, 1, seed=9)
    wanted = model.predict(inputs, verbose=0)
    even, uneven = (
        relative_error(found.predict(inputs), wanted)
        for found in (result, tfdatafree.compress(model, plain, input_range=(-1, 1), verbose=0))
    )
    assert even < 0.7 * uneven


def test_wrong_options_say_what_was_wanted():
    model = capped(lambda: L.ReLU(6.0))
    with pytest.raises(ValueError, match="caps is 'none'; choose one of 'keep', 'limit', 'channel', 'drop'"):
        tfdatafree.equalize(model, caps="none")
    with pytest.raises(ValueError, match="cap_probability is 2; choose a number between 0 and 0.5"):
        tfdatafree.equalize(model, caps="limit", cap_probability=2)
    with pytest.raises(ValueError, match="equalize_caps is 'none'"):
        Recipe(equalize_caps="none")
    with pytest.raises(ValueError, match="equalize_power is 0; choose a number above 0 and at most 1"):
        Recipe(equalize_power=0)
