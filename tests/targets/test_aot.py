"""Phones' NPUs: chips are LiteRT's, and the vendor's compiler has the last word. A stand-in takes the compiler's place.

The stand-in lies where LiteRT looks first: a package `litert` with the program that applies a plugin. So all of LiteRT's own
ahead-of-time API runs, up to the vendor's compiler.
"""

import importlib
import sys
import time
from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema
from tiny_models import build, exported, quick

from tfdatafree import ExportError, Quantize, diagnose
from tfdatafree.report.contents import inspect_target
from tfdatafree.report.page import report_page
from tfdatafree.targets import aot
from tfdatafree.targets.check import check_target, operator_key
from tfdatafree.targets.compiler import ask_compiler
from tfdatafree.targets.fit import fit_recipe
from tfdatafree.targets.registry import TARGETS, get_target
from tfdatafree.targets.target import DISPATCHED
from tfdatafree.tflite.flatbuffer import File

VENDORS = [name for name, target in TARGETS.items() if target.vendor_compiler is not None]
every_vendor = pytest.mark.parametrize("name", VENDORS)
QUALCOMM = get_target("qualcomm-sm8750")
# What the stand-in does with LiteRT's request, in the shell.
_DOES = {
    "takes": 'cp compiled.tflite "$out"',
    "fails": "echo 'ERROR: [plugin.cc:1] Compilation failed:'; echo 'no room for it'; echo 'INFO: [plugin.cc:2] end'; exit 1",
    "lacks a library": "echo 'WARNING: [plugin.cc:3] Failed with error: ERROR: [plugin.cc:4]'; echo '└ no libvendor.so'; "
    "echo '[LITERT_TOOLS:APPLY] Loaded 0 plugins'; exit 1",
    "crashes": "kill -SEGV $$",
    "writes nothing": "exit 0",
    "hangs": "while true; do echo >> heartbeat; sleep 0.05; done",
}
_SCRIPT = """#!/bin/sh
for argument; do case $argument in --o=*) out=${argument#--o=};; esac; done
here=$PWD; cd "${0%/*}"; case $out in /*) ;; *) out=$here/$out;; esac
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Installs the stand-in; call it with what it does, and the file that it makes. Returns its folder."""
    plugin = tmp_path / "litert" / "vendors" / "qualcomm" / "compiler" / "libLiteRtCompilerPlugin_Qualcomm.so"
    sdk = tmp_path / "ai_edge_litert_sdk_qualcomm"
    tools = tmp_path / "litert" / "tools"
    for folder in (plugin.parent, sdk, tools):
        folder.mkdir(parents=True)
    plugin.touch()
    (tmp_path / "litert" / "__init__.py").touch()
    (sdk / "__init__.py").write_text("def path_to_sdk_libs():\n    return 'libraries'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)

    def does(what: str, compiled: bytes = b"") -> Path:
        program = tools / "apply_plugin_main"
        program.write_text(_SCRIPT + _DOES[what] + "\n")
        program.chmod(0o755)
        (tools / "compiled.tflite").write_bytes(compiled)
        return tools

    yield does
    sys.modules.pop("litert", None)


def without_sdk(monkeypatch) -> None:
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    for name in VENDORS:
        if variable := TARGETS[name].vendor_compiler.variable:
            monkeypatch.delenv(variable, raising=False)


def dispatched(content: bytes, kept: set[int]) -> bytes:
    """The file as LiteRT's compilers write it: each run of operators that are not in `kept` is one custom operator."""
    file = File.parse(content)
    graph, operators, run = file.model.subgraphs[0], [], False
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = schema.BuiltinOperator.CUSTOM, 32, b"DISPATCH_OP"
    file.model.operatorCodes.append(code)
    for at, operator in enumerate(file.operators):
        if at in kept:
            operators.append(operator)
        elif run:
            operators[-1].outputs = operator.outputs
        else:
            piece = schema.OperatorT()
            piece.opcodeIndex = len(file.model.operatorCodes) - 1
            piece.inputs, piece.outputs = operator.inputs[:1], operator.outputs
            operators.append(piece)
        run = at not in kept
    graph.operators = operators
    return file.serialize()


# Names ----------------------------------------------------------------------------------------------------------------


@every_vendor
def test_chips_are_those_of_the_official_api(name):
    compiler = TARGETS[name].vendor_compiler
    official = importlib.import_module(f"ai_edge_litert.aot.vendors.{compiler.vendor}.target")
    found = aot.chips(compiler)
    assert sorted(found.values()) == sorted(set(official.SocModel) - {"ALL"}) and not compiler.chip
    for label, chip in found.items():
        target = get_target(f"{name}-{label}")
        assert target.vendor_compiler.chip == chip and target.title.endswith(chip)
        assert target.name == f"{name}-{label}" and target.limits == TARGETS[name].limits
        official.Target(official.SocModel(chip))


def test_the_chips_of_phones_are_there():
    names = [f"qualcomm-sm{n}" for n in (8350, 8450, 8550, 8650, 8750, 8850)]  # of every version
    for name in (*names, "mediatek-mt6991", "google-tensor-g5", "samsung-e9965", "intel-lnl"):
        assert get_target(name).vendor_compiler.chip


@pytest.mark.parametrize("name", ["qualcomm-sm1", "qualcomm-", "google-tensor-tensor_g5", "intel-SM8750"])
def test_a_wrong_chip_is_one_line_that_lists_the_chips(name):
    base = name.rpartition("-")[0]
    with pytest.raises(ValueError, match=f"^target is '{name}'; .* comes as {base}-[^\n]*$"):
        get_target(name)


def test_a_litert_without_ahead_of_time_compilers_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.aot.vendors.samsung.target", None)
    assert get_target("samsung") is TARGETS["samsung"]
    with pytest.raises(ValueError, match="target is 'samsung-e9965', but .* pip install -U ai-edge-litert"):
        get_target("samsung-e9965")


# Without the SDK ------------------------------------------------------------------------------------------------------


@every_vendor
def test_without_the_sdk_the_profile_speaks_and_one_line_says_how_to_get_it(name, tmp_path, monkeypatch):
    without_sdk(monkeypatch)
    path = tmp_path / "plain.tflite"
    path.write_bytes(exported("plain", Quantize(per_channel=False)).built.content)
    summary = inspect_target(path, next(f"{name}-{label}" for label in aot.chips(TARGETS[name].vendor_compiler)))
    assert summary.check.by == "its profile" and summary.check.share == 1 and summary.compiled is None
    assert not summary.check.trouble and "pip install" in summary.hint and "\n" not in summary.hint
    assert str(summary).endswith(summary.hint)


def test_looking_for_an_sdk_loads_nothing_of_the_vendor(stand_in):
    stand_in("takes")
    assert aot.is_installed(QUALCOMM.vendor_compiler) and "ai_edge_litert_sdk_qualcomm" not in sys.modules
    assert not aot.is_installed(TARGETS["mediatek"].vendor_compiler), "its plugin is not there"


def test_a_folder_of_libraries_may_be_named_instead(monkeypatch):
    compiler = TARGETS["google-tensor"].vendor_compiler
    without_sdk(monkeypatch)
    monkeypatch.setattr(importlib.import_module("ai_edge_litert.aot.core.common"), "get_resource", lambda path: path)
    assert not aot.is_installed(compiler)
    monkeypatch.setenv(compiler.variable, "/opt/tensor")
    assert aot.is_installed(compiler)


def test_a_vendor_without_a_chip_is_answered_by_the_profile(stand_in):
    stand_in("fails")
    content = exported("plain").built.content
    verdict = ask_compiler(check_target(content, TARGETS["qualcomm"]), content, TARGETS["qualcomm"])
    assert verdict.check.by == "its profile" and "name a chip" in verdict.hint and "qualcomm-sm8750" in verdict.hint


# With the SDK ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_compiler_has_the_last_word(stand_in, tmp_path):
    content = exported("branch_add").built.content
    file = File.parse(content)
    left = len(file.operators) // 2
    stand_in("takes", dispatched(content, {left}))
    (tmp_path / "model.tflite").write_bytes(content)
    summary = inspect_target(tmp_path / "model.tflite", "qualcomm-sm8750")
    assert set(summary.check.refused) == {operator_key(file, file.operators[left], {})}
    assert "LiteRT's compiler for SM8750 leaves it" in next(iter(summary.check.refused.values()))
    assert summary.check.by == "LiteRT's compiler for SM8750" and summary.check.accepted == len(file.operators) - 1
    assert summary.check.partitions == summary.compiled.partitions == 2 and summary.compiled.seconds > 0
    assert summary.compiled.bytes == len(dispatched(content, {left}))
    text = str(summary)
    assert "in 2 pieces, says LiteRT's compiler for SM8750" in text and "compiled   for SM8750 in" in text


def test_what_the_profile_refused_and_the_compiler_took_is_taken(monkeypatch):
    content = exported("plain").built.content
    target = get_target("mediatek-mt6991")
    check = check_target(content, target)
    assert check.refused
    made = aot._read(content, dispatched(content, {0}), "MT6991", 1.0)
    monkeypatch.setattr(aot, "is_installed", lambda compiler: True)
    monkeypatch.setattr(aot, "compile_for_chip", lambda content, compiler: made)
    verdict = ask_compiler(check, content, target)
    (key,) = verdict.check.refused
    assert len(check.refused) > 1 and verdict.check.refused[key] == check.refused[key], "the profile says what to do"
    samsung = get_target("samsung-e9965")
    refused = check_target(exported("softmax").built.content, samsung)
    assert ask_compiler(refused, content, samsung).check.accepted == made.operators - 1


@pytest.mark.parametrize(
    "what, reason",
    [
        ("fails", "SM8750; it said: no room for it$"),
        ("lacks a library", "SM8750; it said: no libvendor.so$"),
        ("takes", "SM8750 made a file that is no TFLite file.$"),
        ("crashes", "SM8750; it said: apply_plugin failed to apply plugin.$"),
        ("writes nothing", "SM8750; it said: .*apply_plugin.tflite is not a TFLite model"),
    ],
)
@pytest.mark.slow
def test_a_compiler_that_fails_leaves_the_profile_and_its_reason(stand_in, what, reason):
    stand_in(what, b"no TFLite file")
    content = exported("plain").built.content
    check = check_target(content, QUALCOMM)
    verdict = ask_compiler(check, content, QUALCOMM)
    with pytest.raises(RuntimeError, match=reason):
        raise RuntimeError(verdict.check.trouble)
    assert verdict.check.by == "its profile" and verdict.check.refused == check.refused and verdict.compiled is None
    assert "\n" not in verdict.check.trouble


@pytest.mark.slow
def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(stand_in):
    tools = stand_in("hangs")
    with pytest.raises(ExportError, match="did not compile the file for SM8750 within 2 seconds"):
        aot.compile_for_chip(exported("plain").built.content, QUALCOMM.vendor_compiler, seconds=2)
    beats = (tools / "heartbeat").read_text() if (tools / "heartbeat").exists() else ""
    time.sleep(0.3)
    assert not beats or (tools / "heartbeat").read_text() == beats


@pytest.mark.slow
def test_report_and_page_show_what_the_compiler_took(monkeypatch):
    def compiled(content, compiler):
        return aot._read(content, dispatched(content, {0}), compiler.chip, 1.0)

    monkeypatch.setattr(aot, "is_installed", lambda compiler: True)
    monkeypatch.setattr(aot, "compile_for_chip", compiled)
    result = quick(build("plain"), target="qualcomm-sm8750")
    report = result.report
    assert report.on_target.by == "LiteRT's compiler for SM8750" and len(report.on_target.refused) == 1
    assert report.npu_bytes == len(dispatched(result.tflite, {0}))
    for text in (str(report), report_page(report, result.recipe, result.evidence)):
        assert "says LiteRT" in text and "compiler for SM8750" in text and next(iter(report.on_target.refused)) in text


# MediaTek -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mediatek_gets_one_step_per_tensor_unless_the_recipe_says_otherwise(monkeypatch):
    without_sdk(monkeypatch)
    result = quick(build("plain"), target="mediatek")
    assert all(row.weight_scales == 1 for row in result.report.layers if row.weight_scales)
    assert result.report.on_target.share == 1 and "one weight scale per tensor" in result.report.notes["convolutions"]
    asked = quick(build("plain"), Quantize(per_channel=True), target="mediatek")
    assert all(row.weight_scales > 1 for row in asked.report.layers if row.weight_scales)
    assert "refused (LiteRT issue 7603" in str(asked.report.on_target.refused)


@pytest.mark.slow
def test_a_diagnosis_for_a_chip_has_its_steps(monkeypatch):
    recipe = fit_recipe(quick(build("plain")).recipe, TARGETS["mediatek"])
    diagnosis = diagnose(build("plain"), target="mediatek-mt6991", input_range=(-1, 1), images=2, verbose=0)
    assert not recipe.quantize.one_step_per_channel(dense=False)
    assert "per_channel=True" not in str(diagnosis), "the target does not take that"


def test_a_compiled_file_is_the_targets_own():
    content = dispatched(exported("plain").built.content, set())
    assert [File.parse(content).operator_name(op) for op in File.parse(content).operators] == [DISPATCHED]
    for name in VENDORS:
        assert check_target(content, TARGETS[name]).share == 1
