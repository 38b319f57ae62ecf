"""Targets: every rule has its source, compress obeys it, and what a profile lets pass the device's compiler takes."""

import dataclasses
import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from tiny_models import QUICK, build, every_kind, exported, image, random_inputs, randomized
from tiny_models import compressed as compressed_once

from tfdatafree import PRESETS, ExportError, Quantize, Recipe, Rule, compress
from tfdatafree.report.contents import inspect_target
from tfdatafree.targets import check as target_check
from tfdatafree.targets import vela
from tfdatafree.targets.check import FACTS, check_target, operator_facts
from tfdatafree.targets.ethos_u import COMPILED_BY_VELA
from tfdatafree.targets.fit import fit_recipe
from tfdatafree.targets.registry import GENERIC, TARGETS, get_target
from tfdatafree.targets.target import DISPATCHED, Target
from tfdatafree.targets.vela import compile_for_npu
from tfdatafree.tflite.flatbuffer import OPERATOR_CODES, File
from tfdatafree.tflite.operators import OPERATORS

needs_vela = pytest.mark.skipif(importlib.util.find_spec("ethosu") is None, reason="ethos-u-vela is not installed")
every_target = pytest.mark.parametrize("name", TARGETS)
# Large networks whose operators matter, and not what their weights are rounded to.
OPERATORS_ONLY = Recipe(
    quantize=Quantize(rounding="nearest", bias_correction=False), generate=QUICK, level_activations=False
)
NPUS = [name for name in TARGETS if name not in ("generic", "tflite-micro")]


def compressed(model: keras.Model, **options):
    return compress(model, input_range=(-1, 1), verbose=0, **options)


def weight_steps(content: bytes) -> dict[str, set[int]]:
    """Operator -> how many steps its kernels have, compared with its outputs: "one" or "each"."""
    file, found = File.parse(content), {}
    for operator in file.operators:
        name = file.operator_name(operator)
        if name in OPERATORS and OPERATORS[name].kernel is not None:
            steps = len(file.tensors[operator.inputs[OPERATORS[name].kernel]].quantization.scale)
            outputs = file.shape(operator.outputs[0])[-1]
            found.setdefault(name, set()).add("one" if steps == 1 else "each" if steps == outputs else steps)
    return found


# Profiles -------------------------------------------------------------------------------------------------------------


@every_target
def test_every_rule_names_its_document(name):
    target = TARGETS[name]
    assert target.name == name and target.title
    documents = [limit.source for limit in target.limits] + list(target.sources.values())
    assert all(source.document and source.url.startswith("https://") for source in documents)
    assert set(target.sources) <= {field.name for field in dataclasses.fields(Target)}
    for field in dataclasses.fields(Target):
        if field.name in ("name", "title", "limits", "sources", "elsewhere", "accelerator", "macs", "vendor_compiler"):
            continue
        if getattr(target, field.name) != getattr(GENERIC, field.name):
            assert field.name in target.sources, f"{field.name} has no source"


@every_target
def test_rules_speak_of_operators_and_facts_that_there_are(name):
    target = TARGETS[name]
    known = set(OPERATOR_CODES)
    for limit in target.limits:
        assert set(limit.operators) <= known and {limit.fact, *limit.where} <= set(FACTS), limit
        assert target.operators is None or set(limit.operators) <= target.operators, limit
        assert limit.low is not None or limit.high is not None or limit.one_of
        assert limit.reason.format(value=1, high=1, one_of="") and (limit.mend or not limit.operators)
    assert target.operators is None or target.operators <= known | {COMPILED_BY_VELA, DISPATCHED}


def test_an_unknown_target_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"target is 'ethos-u5'; did you mean 'ethos-u\d5'\? choose one of generic, "):
        get_target("ethos-u5")
    with pytest.raises(ValueError, match="target is 'xyz'; choose one of"):
        compressed(build("plain"), target="xyz")
    assert get_target(TARGETS["nnapi"]) is TARGETS["nnapi"]


def test_an_ethos_u_may_be_named_with_its_multipliers():
    target = get_target("ethos-u55-256")
    assert (target.name, target.accelerator, target.title) == ("ethos-u55-256", "ethos-u55-256", "Arm Ethos-U55-256")
    assert target.limits == TARGETS["ethos-u55"].limits and TARGETS["ethos-u55"].accelerator == "ethos-u55-128"
    with pytest.raises(ValueError, match="Arm Ethos-U65 comes as ethos-u65-256, ethos-u65-512"):
        get_target("ethos-u65-128")
    with pytest.raises(ValueError, match="did you mean 'nnapi'"):
        get_target("nnapi-2")


# Recipes --------------------------------------------------------------------------------------------------------------


def test_what_a_recipe_leaves_open_the_target_decides():
    for name, target in TARGETS.items():
        fitted = fit_recipe(PRESETS["int8"], target)
        assert fitted.quantize.one_step_per_channel(dense=True) == target.dense_per_channel, name
        assert fitted.quantize.one_step_per_channel(dense=False) == target.per_channel, name
        assert bool(fitted.quantize.int4) <= target.int4_weights
        assert fit_recipe(PRESETS["int8_per_tensor"], target).quantize.dense_per_channel is None
        assert fit_recipe(fitted, target) == fitted


@pytest.mark.parametrize(
    "name, options, message",
    [
        (
            "edgetpu",
            Quantize(activation_bits=16),
            "activation_bits is 16, but Google Edge TPU .* computes with 8; choose",
        ),
        ("hexagon", Quantize(activation_bits=16), "activation_bits is 16"),
        ("stm32n6", Quantize(activation_bits=16), "activation_bits is 16"),
        ("nnapi", Quantize(activation_bits=16), "activation_bits is 16"),
        ("edgetpu", Quantize(edge_dtype="float32"), "edge_dtype is 'float32', but .* takes 'int8', 'uint8'"),
        ("nnapi", Quantize(dense_per_channel=True), "dense_per_channel is True, but Android NNAPI"),
        (
            "ethos-u55",
            Quantize(weight_bits=4, int4=True),
            "int4 is True, but Arm Ethos-U55 reads weights of a byte each",
        ),
        ("ethos-u55", Quantize(activation_bits=4), "target is 'ethos-u55', but there will be no file: TFLite stores"),
        ("ethos-u55", None, "target 'ethos-u55' does not take files with float32 weights.*'int8'"),
    ],
)
def test_contradictions_are_refused_before_the_model_is_read(name, options, message):
    with pytest.raises(ValueError, match=message):
        compressed("missing.keras", recipe=Recipe(quantize=options), target=name)


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_rule_may_not_ask_for_what_the_target_has_not():
    recipe = Recipe(rules=(Rule("*", activation_bits=16),))
    with pytest.raises(
        ValueError, match=r"activation_bits of rule '\*' is 16, but Google Edge TPU .* computes with 8; leave"
    ):
        fit_recipe(recipe, TARGETS["edgetpu"])
    assert fit_recipe(recipe, TARGETS["ethos-u55"]).rules == recipe.rules


@pytest.mark.parametrize("name", ["nnapi", "generic"])
@pytest.mark.slow
def test_weights_and_grids_are_as_the_target_wants_them(name):
    result = compressed_once("plain", target=name)
    wanted = "one" if name == "nnapi" else "each"
    assert weight_steps(result.tflite) == {"CONV_2D": {"each"}, "FULLY_CONNECTED": {wanted}}
    file = File.parse(result.tflite)
    (mean,) = (operator for operator in file.operators if file.operator_name(operator) == "MEAN")
    same = file.quantizer(mean.inputs[0]) == file.quantizer(mean.outputs[0])
    assert same == (name == "nnapi")
    assert ("one weight scale per tensor" in result.report.notes.get("dense layers", "")) == (name == "nnapi")
    assert result.recipe == PRESETS["int8"], "the recipe is the user's"
    # The simulation has the same grids: the file computes what it says.
    x = random_inputs(build("plain"), 4)
    np.testing.assert_allclose(result.model.predict(x, verbose=0), result.predict(x), atol=0.05)


@pytest.mark.slow
def test_the_report_says_how_much_of_the_file_the_target_computes():
    result = compressed_once("plain", target="nnapi")
    check = result.report.on_target
    assert check.share == 1 and check.accepted == check.operators == len(File.parse(result.tflite).operators)
    assert f"computes {check.operators} of {check.operators} operators (100 %)" in str(result.report)
    assert result.report.to_dict()["on_target"]["target"] == "nnapi"
    assert compressed_once("plain", target="generic").report.on_target is None


@pytest.mark.slow
def test_weights_two_to_a_byte_are_seen_in_a_file():
    content = compressed(build("plain"), recipe=Recipe(quantize=Quantize(weight_bits=4, int4=True))).tflite
    refused = check_target(content, TARGETS["ethos-u55"]).refused
    assert set(refused) and all("its weights are int4" in reason for reason in refused.values())
    assert check_target(content, GENERIC).share == 1


def awkward() -> keras.Model:
    """A model with a layer that no NPU here takes as it is, and others that some take."""
    x = image((12, 12, 4))
    y = L.Conv2D(4, 3, strides=4, padding="same", name="big_stride")(x)
    y = L.UpSampling2D(3, interpolation="bilinear", name="thrice")(y)
    y = L.AveragePooling2D(9, strides=1, padding="same", name="wide")(y)
    return randomized(keras.Model(x, L.Dense(3, name="head")(L.Flatten(name="flat")(y)), name="awkward"))


@pytest.fixture(scope="module")
def awkward_file() -> bytes:
    return compressed(awkward()).tflite


@pytest.mark.parametrize(
    "name, operator, reason",
    [
        (
            "ethos-u55",
            "CONV_2D big_stride",
            "stride is 4, and with 'same' padding at most 3 .*; use a stride of at most 3",
        ),
        ("ethos-u55", "RESIZE_BILINEAR thrice", "enlarges by 3, and only 1, 2 are possible"),
        ("ethos-u85", "RESIZE_BILINEAR thrice", "enlarges by 3, and only powers of two"),
        ("ethos-u85", "AVERAGE_POOL_2D wide", r"window is 9 .*\(Vela .*\); pad with 'valid'"),
        ("hexagon", "CONV_2D big_stride", "its stride is 4"),
        ("nnapi", "FULLY_CONNECTED head", "its weights have 3 steps, and NNAPI has one"),
        ("stm32n6", "RESIZE_BILINEAR thrice", "RESIZE_BILINEAR is not known to run on STM32N6"),
    ],
)
@pytest.mark.slow
def test_what_a_target_does_not_compute_is_named_with_its_reason(name, operator, reason, awkward_file):
    check = check_target(awkward_file, TARGETS[name])
    with pytest.raises(RuntimeError, match=reason):
        raise RuntimeError(check.refused[operator])
    assert check.accepted == check.operators - len(check.refused) < check.operators
    assert f"({int(100 * check.share)} %)" in str(check) and check.elsewhere in str(check)


@pytest.mark.slow
def test_a_rule_holds_up_to_its_limit():
    def refused(stride: int, padding: str) -> set[str]:
        x = image((13, 13, 4))
        y = L.Conv2D(4, 5, strides=stride, padding=padding, name="conv")(x)
        return set(check_target(compressed(keras.Model(x, y)).tflite, TARGETS["ethos-u55"]).refused)

    assert refused(3, "same") == refused(4, "valid") == set() and refused(4, "same") == {"CONV_2D conv"}


@pytest.mark.slow
def test_the_edge_tpu_computes_what_stands_ahead_of_the_first_unknown_operator():
    x = image((4, 4, 4))
    y = x
    for name in "abc":
        y = L.Conv2D(4, 1, activation=None if name == "a" else L.LeakyReLU(0.1), name=name)(y)
    content = compressed(keras.Model(x, L.Conv2D(2, 3, name="last")(y))).tflite
    check = check_target(content, TARGETS["edgetpu"])
    assert [key.split()[0] for key in check.refused] == ["LEAKY_RELU", "LEAKY_RELU"] and check.operators == 6
    assert check.accepted == check.before == 2 and "the CPU, and so does everything after the first" in str(check)
    elsewhere = dataclasses.replace(TARGETS["edgetpu"], one_piece=False)
    assert check_target(content, elsewhere).accepted == 4


@every_kind
def test_facts_are_those_that_are_described(name):
    file = File.parse(exported(name).built.content)
    for operator in file.operators:
        assert set(operator_facts(file, operator)) <= set(FACTS)


@every_kind
def test_tensors_with_more_than_three_long_axes_are_seen(name):
    file = File.parse(exported(name).built.content)
    refused = check_target(exported(name).built.content, TARGETS["edgetpu"]).refused
    taken: dict[str, str] = {}
    for operator in file.operators:
        key = target_check.operator_key(file, operator, taken)
        taken[key] = ""
        indices = [i for i in (*operator.inputs, *operator.outputs) if i >= 0 and file.constant(i) is None]
        deep = any(np.prod(file.shape(i)[:-3]) > 1 for i in indices)
        if file.operator_name(operator) in TARGETS["edgetpu"].operators:
            assert ("outside its three innermost axes" in refused.get(key, "")) == deep


def assert_fit_for_the_edge_tpu(content: bytes, dtype: str = "int8") -> None:
    file = File.parse(content)
    assert {file.dtype(i) for i in (*file.inputs, *file.outputs)} == {dtype}
    for operator in file.operators:
        for index in (*operator.inputs, *operator.outputs):
            shape = file.shape(index) if index >= 0 else ()
            assert all(size > 0 for size in shape) and np.prod(shape[:-3]) <= (
                1 if file.constant(index) is None else np.inf
            )


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("name", ["squeeze_excite", "ops_nodes"])
@pytest.mark.slow
def test_a_file_for_the_edge_tpu_has_8_bit_edges_and_at_most_three_long_axes(name, dtype):
    recipe = Recipe(quantize=Quantize(edge_dtype=dtype))
    assert_fit_for_the_edge_tpu(compressed(build(name), recipe=recipe, target="edgetpu").tflite, dtype)


@pytest.mark.zoo
@pytest.mark.slow
def test_the_edge_tpu_computes_the_whole_of_a_network_with_strided_shortcuts(zoo):
    path = zoo / "resnet20_cifar10.keras"
    result = compress(path, OPERATORS_ONLY, input_range=(-2.12, 2.64), target="edgetpu", verbose=0)
    assert_fit_for_the_edge_tpu(result.tflite)
    assert result.report.on_target.share == 1


@pytest.mark.slow
def test_where_there_is_no_cpu_beside_it_a_missing_operator_is_an_error():
    x = image((4,), "row")
    model = randomized(keras.Model(x, L.Dense(2, name="head")(L.Flatten()(L.RepeatVector(3, name="repeat")(x)))))
    with pytest.raises(
        ExportError,
        match=r"TensorFlow Lite Micro cannot start with this file, because it does not compute TILE .*target='generic'",
    ):
        compressed(model, target="tflite-micro")
    assert compressed(build("plain"), target="tflite-micro").report.on_target.share == 1


def converted(model: keras.Model, **options) -> bytes:
    """A file of TensorFlow's own converter."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in options.items():
        setattr(converter, name, value)
    return converter.convert()


@pytest.mark.slow
def test_files_of_others_are_held_against_targets_too():
    model = randomized(keras.Sequential([keras.Input((64,)), L.Dense(64, name="big"), L.Dense(2)]))
    float_file = converted(model)
    assert (
        check_target(float_file, TARGETS["ethos-u55"]).share == check_target(float_file, TARGETS["edgetpu"]).share == 0
    )
    assert check_target(float_file, TARGETS["tflite-micro"]).share == check_target(float_file, GENERIC).share == 1
    hybrid = converted(model, optimizations=[tf.lite.Optimize.DEFAULT])
    with pytest.raises(ExportError, match="its weights are int8, and what it multiplies them by is float32"):
        check_target(hybrid, TARGETS["tflite-micro"])


# Arm's compiler -------------------------------------------------------------------------------------------------------


@needs_vela
@pytest.mark.parametrize("name", ["branch_add", "squeeze_excite", "softmax", "conv_transpose"])
@pytest.mark.parametrize("target", ["ethos-u55", "ethos-u85"])
@pytest.mark.slow
def test_what_the_profile_lets_pass_the_compiler_takes(name, target):
    content = exported(name).built.content
    left = compile_for_npu(content, accelerator=TARGETS[target].accelerator).left
    assert set(left) <= set(check_target(content, TARGETS[target]).refused)


@needs_vela
@pytest.mark.slow
def test_more_multipliers_take_less_time():
    content = exported("depthwise").built.content
    macs = TARGETS["ethos-u55"].macs
    seconds = {n: compile_for_npu(content, accelerator=f"ethos-u55-{n}").seconds for n in (min(macs), max(macs))}
    assert seconds[max(macs)] < seconds[min(macs)]


@needs_vela
@pytest.mark.slow
def test_the_compiler_has_the_last_word(awkward_file, tmp_path):
    (tmp_path / "awkward.tflite").write_bytes(awkward_file)
    summary = inspect_target(tmp_path / "awkward.tflite", "ethos-u55")
    assert summary.check.by == "Vela" and set(summary.check.refused) == set(summary.compiled.left)
    assert "AVERAGE_POOL_2D wide" in summary.compiled.left and summary.check.share == summary.compiled.share < 1
    assert summary.compiled.seconds > 0 and summary.compiled.sram_bytes > 0 and summary.compiled.flash_bytes > 0
    text = str(summary)
    assert "on the NPU" in text and "KiB SRAM" in text and "ms estimated" in text
    report = compressed(awkward(), target="ethos-u55").report
    assert report.npu_bytes == summary.compiled.bytes and report.on_target.by == "Vela"
    assert report.npu_seconds == summary.compiled.seconds and "ms estimated" in str(report)
    assert "Not on the target" in str(report) and "AVERAGE_POOL_2D wide" in str(report)


@pytest.mark.slow
def test_a_compiler_that_fails_costs_nobody_their_file(monkeypatch):
    def broken(*_, **__):
        raise ExportError("Vela did not compile the file for ethos-u55-128; it said: boom")

    monkeypatch.setattr(vela, "vela_is_installed", lambda: True)
    monkeypatch.setattr(vela, "compile_for_npu", broken)
    result = compressed(build("plain"), target="ethos-u55")
    assert result.report.npu_bytes is None and len(result.tflite) > 1000
    assert "says its profile; but Vela did not compile" in str(result.report) and "boom" in str(result.report)


@pytest.mark.slow
def test_without_the_compiler_the_profile_speaks_and_says_how_to_get_it(awkward_file, tmp_path, monkeypatch):
    (tmp_path / "awkward.tflite").write_bytes(awkward_file)
    monkeypatch.setattr(vela.importlib.util, "find_spec", lambda name: None)
    summary = inspect_target(tmp_path / "awkward.tflite", "ethos-u55")
    assert summary.compiled is None and summary.check.by == "its profile"
    assert "pip install ethos-u-vela" in str(summary)
    report = compressed(build("plain"), target="ethos-u55").report
    assert report.npu_bytes is None and report.on_target.share == 1


@needs_vela
@pytest.mark.zoo
@pytest.mark.slow
def test_an_ethos_u55_computes_the_whole_of_a_trained_network(zoo):
    path = zoo / "mobilenet_v1_025.keras"
    report = compress(path, OPERATORS_ONLY, input_range=(-1, 1), target="ethos-u55", verbose=0).report
    assert report.on_target.by == "Vela" and report.on_target.share == 1 and not report.on_target.refused
    assert 0 < report.npu_bytes < report.bytes
