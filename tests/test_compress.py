import dataclasses
import functools
import json
import re

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import (
    FIRST,
    QUICK,
    SHAPE,
    build,
    each,
    fresh,
    image,
    outputs_of,
    quick,
    randomized,
    separated,
    state,
    without_metadata,
)

import tfdatafree
from tfdatafree import Compressed, Prune, Quantize, Recipe, Recover, UnsupportedModelError, compress
from tfdatafree.inputs.make import make_inputs
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.model.graph import Graph
from tfdatafree.tflite.flatbuffer import File

# Outputs of a chain of integer layers. Each layer differs from its simulation by up to one integer, and these errors add up.
STEPS = 4
UNFAITHFUL = {"dead_channels"}
FEW = ["plain", "branch_add", "two_inputs", "dict_outputs"]
# A few kinds of networks, and what reading and folding make of structures, edges and types. That reading and folding keep the
# function of every model is shown where they are tested; for all kinds test_build.py compares every tensor of the file with its
# simulation.
difficulties = each(sorted(FIRST | {
    "sine", "dead_channels", "rescaling", "sequential", "mixed_float16", "relu6", "twin_layers", "nested_called_twice",
    "nested_outputs", "batchnorm_at_the_input", "batchnorm_is_an_output", "batchnorm_preactivation",
}))  # fmt: skip


def range_of(name: str) -> tuple[float, float]:
    return (0, 255) if name == "uint8_input" else (-1, 1)


@functools.cache
def model_and_result(name: str) -> tuple[keras.Model, tuple, Compressed]:
    """A tiny model, its state before, and its compression."""
    model = build(name)
    return model, state(model), quick(model, input_range=range_of(name))


def compressed(name: str) -> Compressed:
    return model_and_result(name)[2]


def inputs_of(name: str, n: int = 3) -> list[np.ndarray]:
    """Images that the compression did not use."""
    return make_inputs(separated(name), n, range_of(name), seed=9)


def predicted(result: Compressed, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return as_list(result.predict(inputs if len(inputs) > 1 else inputs[0]))


def as_list(y) -> list[np.ndarray]:
    return list(y) if isinstance(y, (list, tuple)) else [y]


# The three that must agree: file, simulation, float model --------------------------------------------------------------


@difficulties
def test_the_file_computes_what_the_simulating_model_computes(name):
    result, inputs = compressed(name), inputs_of(name, 2)
    found, wanted = predicted(result, inputs), outputs_of(result.model, inputs)
    float_outputs = outputs_of(build(name), inputs)
    for at, (a, b, c) in enumerate(zip(found, wanted, float_outputs, strict=True)):
        assert a.shape == b.shape == c.shape and a.dtype == np.float32
        step = File.parse(result.tflite).quantizer(File.parse(result.tflite).outputs[at]).scale
        assert np.abs(a - b).max() <= STEPS * step, f"output {at}: {np.abs(a - b).max() / step} steps"
        assert name in UNFAITHFUL or np.abs(a - c).max() <= 0.25 * np.abs(c).max() + 2 * step
    assert result.report.integer_only == (name != "sine")


@difficulties
def test_the_model_passed_in_is_not_changed(name):
    model, before, result = model_and_result(name)
    assert state(model) == before
    assert not {id(layer) for layer in result.model._flatten_layers()} & {
        id(layer) for layer in model._flatten_layers()
    }


@pytest.mark.parametrize("name", ["branch_add", "two_inputs"])
@pytest.mark.slow
def test_the_seed_is_all_that_chance_has(name):
    again, other = (quick(build(name), seed=seed).tflite for seed in (0, 1))
    assert again == compressed(name).tflite != other, "the same seed gives the same bytes"


# Recipes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [name for name, recipe in tfdatafree.PRESETS.items() if recipe.quantize])
@pytest.mark.slow
def test_every_preset_compresses(preset):
    recipe = tfdatafree.PRESETS[preset]
    model, inputs = build("branch_add"), inputs_of("branch_add")
    result = quick(model, recipe.quantize)
    (wanted,) = outputs_of(model, inputs)
    assert result.report.integer_only
    assert np.abs(predicted(result, inputs)[0] - wanted).max() < 0.2 * np.abs(wanted).max()
    assert (
        np.abs(predicted(result, inputs)[0] - outputs_of(result.model, inputs)[0]).max() < 0.02 * np.abs(wanted).max()
    )
    bits = recipe.quantize.activation_bits
    assert {row.activation_bits for row in result.report.layers} == {bits}
    rows = [row for row in result.report.layers if row.weight_scales]
    assert all(
        (row.weight_scales > 1) == recipe.quantize.one_step_per_channel(dense=False)
        for row in rows
        if row.name != "only"
    )
    assert {row.weight_bits for row in rows} <= {recipe.quantize.weight_bits, recipe.quantize.depthwise_bits}


@pytest.mark.slow
def test_float16_halves_the_weights_and_keeps_the_function():
    model, inputs = build("flatten_dense"), inputs_of("flatten_dense")
    result = compress(model, "float16", verbose=0)
    (wanted,) = outputs_of(model, inputs)
    np.testing.assert_allclose(predicted(result, inputs)[0], wanted, atol=5e-3 * np.abs(wanted).max())
    np.testing.assert_allclose(outputs_of(result.model, inputs)[0], wanted, atol=1e-5)
    file = File.parse(result.tflite)
    assert "float16" in {file.dtype(i) for i in range(len(file.tensors))}
    assert not result.report.integer_only and "no data" in result.report.generated


@pytest.mark.slow
def test_bias_correction_and_rounding_are_options():
    files = {
        quick(build("plain"), Quantize(weight_bits=4, bias_correction=correct)).tflite for correct in (True, False)
    }  # fmt: skip
    assert len(files) == 2


# Inputs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_given_input_range_is_the_files():
    file = File.parse(quick(build("plain"), input_range=(-3, 5)).tflite)
    quantizer = file.quantizer(file.inputs[0])
    # One scale, and the hundredth by which `range_of_levels` may widen the range.
    assert quantizer.low == pytest.approx(-3, abs=quantizer.scale + 0.03)
    assert quantizer.high == pytest.approx(5, abs=quantizer.scale + 0.05)


@pytest.mark.slow
def test_the_input_range_is_found_and_the_report_says_how():
    assert "from the Rescaling layer" in quick(build("rescaling"), input_range=None).report.input_range
    assert "estimated from the statistics of 'a_bn'" in quick(build("plain"), input_range=None).report.input_range
    assert "assumed" in quick(build("no_bias"), input_range=None).report.input_range
    assert compressed("plain").report.input_range.startswith("[-1, 1], given; generated pictures fit within 0.0")


@pytest.mark.parametrize(
    "given, message",
    [
        ((1, -1), r"input_range is \(1, -1\); low and high"),
        (3, "input_range is 3; give two numbers"),
        ((0, np.nan), "finite"),
    ],
)
def test_a_wrong_input_range_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        quick(build("plain"), input_range=given)


@pytest.mark.slow
def test_real_inputs_are_used_and_reported():
    x = np.random.default_rng(0).uniform(-3, 7, (20, *SHAPE)).astype(np.float32)
    result = quick(build("plain"), representative_data=x, input_range=None)
    quantizer = File.parse(result.tflite).quantizer(0)
    assert (quantizer.low, quantizer.high) == pytest.approx((x.min(), x.max()), abs=quantizer.scale)
    assert "20 representative inputs" in result.report.generated
    assert "representative" not in compressed("plain").report.generated
    given = quick(build("plain"), representative_data=x, input_range=(-3, 7.5))
    assert File.parse(given.tflite).quantizer(0).high == pytest.approx(7.5, abs=quantizer.scale)


def test_an_input_shape_makes_a_dynamic_model_static():
    x = image((None, None, 3))
    model = randomized(keras.Model(x, L.GlobalAveragePooling2D(name="pool")(L.Conv2D(4, 3, name="conv")(x))))
    result = quick(model, input_shape=(10, 12, 3))
    assert result.predict(np.zeros((1, 10, 12, 3))).shape == (1, 4)


# What is refused ------------------------------------------------------------------------------------------------------


def test_a_wrong_recipe_names_the_nearest():
    with pytest.raises(ValueError, match=r"recipe is 'int16x'; did you mean 'int16x8'\? choose one of int8, "):
        compress(build("plain"), "int16x", verbose=0)


def test_a_wrong_target_is_named():
    with pytest.raises(ValueError, match="target is 'abacus'; choose one of generic"):
        quick(build("plain"), target="abacus")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_name_their_layer(value):
    model = fresh("plain")
    kernel = model.get_layer("b_conv").kernel.numpy().copy()
    kernel[0, 0, 0, 0] = value
    model.get_layer("b_conv").kernel.assign(kernel)
    with pytest.raises(
        UnsupportedModelError, match=r"'b_conv' \(Conv2D\) has NaN or infinite values in its weight 'kernel'"
    ):
        quick(model)


def test_a_batchnorm_with_nan_is_named():
    model = fresh("plain")
    model.get_layer("a_bn").moving_mean.assign([np.nan, 0, 0, 0])
    with pytest.raises(UnsupportedModelError, match=r"'a_bn' \(BatchNormalization\) has NaN"):
        quick(model)


def test_a_model_without_kernels_is_refused():
    x = image()
    model = keras.Model(x, L.ReLU(name="relu")(L.MaxPooling2D(2, name="pool")(x)), name="bare")
    with pytest.raises(
        UnsupportedModelError, match="'bare' has no layer with weights.*its layers are: MaxPooling2D, ReLU"
    ):
        quick(model)


# The result -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_is_plain_values_and_one_page():
    for name in (*FEW, "sine", "dead_channels"):
        report = compressed(name).report
        values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        assert values["model"] == name and values["bytes"] == len(compressed(name).tflite)
        assert [row["name"] for row in values["layers"]] == [row.name for row in report.layers]
        page = str(report)
        for row in report.layers:
            assert re.search(rf"\b{row.name}\b", page)
        for reason in [*report.kept.values(), *report.notes.values()]:
            assert reason in page
    assert "TFLite has no integer kernel for SIN" in str(compressed("sine").report)
    assert "some in float" in str(compressed("sine").report) and "integer only" in str(compressed("plain").report)


def test_a_tensor_without_any_noise_is_exact():
    (row, *_) = compressed("plain").report.layers
    report = dataclasses.replace(compressed("plain").report, layers=(dataclasses.replace(row, sqnr_db=float("inf")),))
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["layers"][0]["sqnr_db"] is None
    assert "exact" in str(report)


def test_the_reports_rows_are_the_files_tensors():
    result = compressed("plain")
    rows = {row.name: row for row in result.report.layers}
    assert list(rows)[0] == "image" and list(rows)[-1] == "head"
    assert (rows["a_relu"].operation, rows["a_relu"].weight_scales, rows["image"].weight_bits) == (
        "Conv2D + relu",
        4,
        None,
    )
    file = File.parse(result.tflite)
    for index in range(len(file.tensors)):
        if file.name(index) in rows:
            quantizer, row = file.quantizer(index), rows[file.name(index)]
            assert (row.low, row.high) == (quantizer.low, quantizer.high)


@pytest.mark.parametrize("name", [*FEW, "squeeze_excite", "ops_nodes", "mixed_float16", "uint8_input", "nested"])
@pytest.mark.slow
def test_the_simulating_model_saves_and_loads(name, tmp_path):
    result, inputs = compressed(name), inputs_of(name)
    path = result.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(path)
    for a, b in zip(outputs_of(loaded, inputs), outputs_of(result.model, inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert [x.name for x in loaded.inputs] == [x.name for x in build(name).inputs]


def test_saving_writes_whole_files_and_does_not_replace_them(tmp_path):
    result = compressed("plain")
    assert result.save(tmp_path / "m.tflite").read_bytes() == result.tflite
    with pytest.raises(FileExistsError, match="m.tflite exists; pass overwrite=True"):
        result.save(tmp_path / "m.tflite")
    result.save(str(tmp_path / "m.tflite"), overwrite=True)
    record = json.loads(result.save(tmp_path / "m.json").read_text())
    assert record["recipe"]["quantize"]["weight_bits"] == 8 and record["report"]["model"] == "plain"
    with pytest.raises(ValueError, match=r"ends in '.txt'; choose .tflite, .keras, .json or .html"):
        result.save(tmp_path / "m.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.json", "m.tflite"]


def test_predict_takes_a_dict_or_a_list_and_refuses_other_shapes():
    result, (left, right) = compressed("two_inputs"), inputs_of("two_inputs")
    wanted = result.predict([left, right])
    np.testing.assert_array_equal(result.predict({"right": right, "left": left}), wanted)
    with pytest.raises(ValueError, match=r"x lacks the input\(s\) right; the model's inputs are left, right"):
        result.predict({"left": left})
    with pytest.raises(ValueError, match=r"input 'right' has shape \(3, 8, 8, 3\); give \(n, 4, 4, 2\)"):
        result.predict([left, left])
    with pytest.raises(ValueError, match=r"input 'image' has shape \(8, 8, 3\); give \(n, 8, 8, 3\)"):
        compressed("plain").predict(left[0])


def test_predict_handles_one_example_like_many():
    result, (x,) = compressed("plain"), inputs_of("plain", 4)
    np.testing.assert_array_equal(result.predict(x)[2:3], result.predict(x[2:3]))


@pytest.mark.slow
def test_the_result_carries_its_recipe():
    assert compressed("plain").recipe == Recipe(name="quick", quantize=Quantize(), generate=QUICK)
    assert (
        compress(build("plain"), Recipe(name="mine", generate=QUICK), input_range=(0, 1), verbose=0).report.recipe
        == "mine"
    )


@pytest.mark.slow
def test_nothing_is_printed(capsys):
    quick(build("plain"))
    assert capsys.readouterr() == ("", "")


def test_weights_of_the_simulating_model_lie_on_the_files_grids():
    result = compressed("plain")
    written = {layer.name: layer for layer in result.model.layers}
    file = File.parse(result.tflite)
    for index in range(len(file.tensors)):
        if file.name(index) == "a_relu/kernel":
            wanted = np.moveaxis(file.constant(index), 0, -1) * np.asarray(file.quantizer(index).scale, np.float64)
            np.testing.assert_array_equal(np.asarray(written["a_conv"].kernel), wanted.astype(np.float32))
    assert Graph.from_keras(result.model).layers["a_conv"].weight("bias") is not None


@pytest.mark.slow
def test_small_channels_that_the_results_depend_on_stay():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU()(x)
    model = keras.Model(inputs, keras.layers.Dense(5, name="head")(keras.layers.GlobalAveragePooling2D()(x)))
    norm, head = model.get_layer("norm"), model.get_layer("head")
    seen = np.asarray(keras.Model(inputs, norm.input)(procedural_images(16, (8, 8, 3), -1, 1)))
    norm.moving_mean.assign(seen.mean(axis=(0, 1, 2)))
    norm.moving_variance.assign(seen.var(axis=(0, 1, 2)))
    ends = {"input_range": (-1, 1), "verbose": 0}
    for factor, told in ((1.0, False), (300.0, True)):
        gamma, kernel = np.ones(8), np.array(head.kernel)
        gamma[3], kernel[3] = factor, kernel[3] / factor
        norm.gamma.assign(gamma)
        head.kernel.assign(kernel)
        compressed = tfdatafree.compress(model, Recipe(equalize=True), **ends)
        assert compressed.report.outputs[0].sqnr_db > 25
        assert ("norm" in compressed.report.kept) == told


@pytest.mark.slow
def test_a_float_file_tells_what_was_done_before_it_was_written():
    recipe = Recipe(quantize=None, prune=Prune(sparsity=0.3, method="channel", images=8))
    assert "channels removed" in compress(build("plain"), recipe, input_range=(-1, 1), verbose=0).report.notes


# What makes a result useless --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_good_result_has_no_warning(caplog):
    good = compress(build("branch_add"), Recipe(generate=QUICK), input_range=(-1, 1), verbose=0).report
    assert good.warnings == [] and "WARNING" not in str(good) and "unlike" not in caplog.text


def test_outputs_unlike_the_float_models_name_where_it_breaks():
    quantize = Quantize(weight_bits=4, activation_bits=4, rounding="nearest", per_channel=False, bias_correction=False)
    report = compress(
        build("depthwise"), Recipe(quantize=quantize, generate=QUICK), input_range=(-1, 1), verbose=0
    ).report
    assert bool(report.warnings) == (report.verdict.grade == "broken")
    few = {"sqnr_db": 40.0, "expected": dataclasses.replace(report.outputs[0].expected, share=0.1)}
    noisy = {"sqnr_db": 1.0, "expected": None}
    agreeing, broken = (
        dataclasses.replace(report, outputs=tuple(dataclasses.replace(output, **what) for output in report.outputs))
        for what in (few, noisy)
    )
    assert len(agreeing.failures) == len(report.outputs) and "agreement is about 10 %" in agreeing.failures[0]
    row = next((row.name for row in report.layers if row.sqnr_db < 10), None)
    assert len(broken.warnings) == len(report.outputs) and (row is None or f"far off is '{row}'" in broken.warnings[0])


@pytest.mark.slow
def test_a_recipe_file_is_as_good_as_a_recipe(tmp_path):
    recipe = Recipe(generate=QUICK, quantize=Quantize(per_channel=False))
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(recipe.to_dict()))
    results = [compress(build("plain"), given, input_range=(-1, 1), verbose=0) for given in (recipe, path, str(path))]
    assert len({result.tflite for result in results}) == 1
    assert repr(results[0]).startswith("<Compressed 'plain', recipe ") and f"{len(results[0].tflite):,} bytes" in repr(
        results[0]
    )
    with pytest.raises(tfdatafree.LoadError, match="recipe 'none.json' cannot be read"):
        compress(build("plain"), "none.json")


def test_the_package_shows_its_public_names_only():
    assert dir(tfdatafree) == sorted(tfdatafree.__all__)
    assert all(hasattr(tfdatafree, name) for name in tfdatafree.__all__)


@pytest.mark.slow
def test_a_contradicted_range_leads_the_report():
    report = compress(build("plain"), Recipe(generate=QUICK), input_range=(0, 255), verbose=0).report
    assert "did you mean (-1, 1)?" in str(report).splitlines()[1]
    assert not compress(build("plain"), Recipe(generate=QUICK), input_range=(-1, 1), verbose=0).report.warnings


@pytest.mark.slow
def test_statistics_of_inputs_that_a_given_range_excludes_are_left_aside():
    """The file then depends on what the network computes alone: other statistics of the same function change no byte."""
    model, other = fresh("plain"), fresh("plain")
    for one, two in zip(model.layers, other.layers, strict=True):
        if isinstance(one, keras.layers.BatchNormalization):
            one.epsilon = two.epsilon = 2.0**-10
            variance = np.ceil(64 * one.moving_variance.numpy()) / 64
            one.moving_variance.assign(variance)
            # Four times what is divided by, squared, and twice the factor: powers of two lose no digit.
            two.moving_variance.assign(4 * variance + 3 * two.epsilon)
            two.gamma.assign(2 * two.gamma)
    narrow = {"input_range": (0, 0.01), "verbose": 0}
    files = [compress(each, Recipe(generate=QUICK), **narrow).tflite for each in (model, other)]
    assert without_metadata(files[0]) == without_metadata(files[1])
    with pytest.raises(ValueError, match="recover makes inputs by the statistics .* did you mean .* leave recover out"):
        compress(model, Recipe(generate=QUICK, recover=Recover()), **narrow)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int32", "bool", "float64"])
def test_inputs_of_other_types_are_computed_with_as_floats(dtype):
    images = [keras.Input((8, 8, 3), dtype=kind, name="image") for kind in (dtype, "float32")]
    layers = [L.Conv2D(2, 3, name="conv"), L.GlobalAveragePooling2D(name="pool")]
    models = []
    for inputs in images:
        x = inputs
        for layer in layers:
            x = layer(x)
        models.append(keras.Model(inputs, x, name="model"))
    files = [compress(model, Recipe(generate=QUICK), input_range=(0, 255), verbose=0).tflite for model in models]
    assert files[0] == files[1]


@pytest.mark.slow
def test_reshapes_in_a_row_keep_the_range_of_layer_wise_samples():
    image = keras.Input((7, 7, 1))
    model = keras.Model(image, L.Dense(3)(L.Reshape((49, 1))(L.Reshape((49, 1))(image))))
    assert compress(model, "dfq", input_range=(-1, 1), verbose=0).report.integer_only
