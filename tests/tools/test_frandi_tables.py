"""Tests of tools/reproduce_frandi_tables.py: what its methods keep, and its figures on a tiny model."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from run_tool import run_tool
from tiny_models import build, coarse_search, random_inputs, untraced

_TOOL = Path(__file__).resolve().parents[2] / "tools" / "reproduce_frandi_tables.py"
_spec = importlib.util.spec_from_file_location("reproduce_frandi_tables", _TOOL)
tool = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = tool  # its dataclass looks there
_spec.loader.exec_module(tool)


def kernels(model):
    return [np.asarray(kernel) for kernel in tool._kernels(model)]


@pytest.mark.parametrize("name", ["plain", "nested", "depthwise"])
def test_magnitude_pruning_takes_the_smallest_of_all_layers_together(name):
    model = build(name)
    before = model.get_weights()
    was, found = kernels(model), kernels(tool.magnitude_pruned(model, 0.4))
    pairs = list(zip(was, found, strict=True))
    zero, stays = (np.concatenate([np.abs(w[(p == 0) == gone]) for w, p in pairs]) for gone in (True, False))
    assert zero.max() <= stays.min() and len(stays) / (len(zero) + len(stays)) == pytest.approx(0.4, abs=0.02)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_fine_tuning_learns_the_labels_and_keeps_zeros():
    student = tool.magnitude_pruned(build("plain"), 0.5)
    (x,) = random_inputs(student, 64)
    y = (x.mean(axis=(1, 2, 3)) > 0).astype(int)
    tuned = tool.fine_tuned(student, x, y, epochs=30)
    loss = lambda model: float(-np.log(_softmax(np.asarray(model(x)))[np.arange(64), y]).mean())  # noqa: E731
    assert loss(tuned) < 0.95 * loss(student)
    for old, new in zip(kernels(student), kernels(tuned), strict=True):
        np.testing.assert_array_equal(old == 0, new == 0)


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_settings_are_bits_and_no_recipe_writes_a_file():
    assert tool.bits_of("w4a8") == (4, 8)
    for recipe in tool.recipes(5, 8).values():
        assert (recipe.quantize.weight_bits, recipe.quantize.activation_bits) == (5, 8) and recipe.quantize.simulated
    for wrong in ("4", "w3a8", "w4a16"):
        with pytest.raises(ValueError, match=f"'{wrong}' is none; write w4a8"):
            tool.bits_of(wrong)


@pytest.mark.slow
def test_figures_and_tables_of_a_tiny_model():
    model = build("plain")
    (x,) = random_inputs(model, 40)
    y = np.asarray(model(x)).argmax(axis=-1)
    said = []
    effort = tool.Effort(images=8, steps=2, epochs=1)
    tables = tool.Tables(model, x, y, None, (x, y), (-2, 2), effort, lambda *what: said.append(what[:2]))
    with untraced(), coarse_search():
        pruned, quantized = tables.pruned_row(0.5), tables.quantized_row("w4a4")
    assert said == [("kept 0.5", m) for m in tool.TABLE_1] + [("w4a4", m) for m in tool.TABLE_2]
    assert pruned["float"] == quantized["float"] == 1
    assert all(0 <= row[m] <= 1 for row, ms in ((pruned, tool.TABLE_1), (quantized, tool.TABLE_2)) for m in ms)
    assert set(pruned["seconds"]) == set(tool.TABLE_1)
    lines = tool.markdown([{"model": "tiny", **pruned}], [{"model": "tiny", **quantized}]).splitlines()
    assert lines[0] == "| model | kept | float | pruned | recovered | on_real | fine_tuned |"
    assert lines[2].startswith("| tiny | 0.5 | 100.00 |") and lines[3] == ""
    assert lines[4] == "| model | setting | float | dfq | aciq | zeroq | rounded | recovered |" and len(lines) == 7
    assert tool.markdown([], []) == ""


def test_what_is_wrong_is_told():
    for flag, message in (("--kept=2", "--kept=2: give parts"), ("--settings=w9a8", "'w9a8' is none")):
        done = run_tool(_TOOL, flag)
        assert done.returncode == 1 and message in done.stderr
