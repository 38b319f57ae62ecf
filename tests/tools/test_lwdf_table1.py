"""Tests of tools/reproduce_lwdf_table1.py: what its recipes differ in, and its figures on a tiny model."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from run_tool import run_tool
from tiny_models import MODELS, build, coarse_search, random_inputs

import tfdatafree

_TOOL = Path(__file__).resolve().parents[2] / "tools" / "reproduce_lwdf_table1.py"
_spec = importlib.util.spec_from_file_location("reproduce_lwdf_table1", _TOOL)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


@pytest.mark.parametrize("bits", tool.BITS)
def test_every_method_is_simulated_per_tensor_and_asymmetric(bits):
    recipes = tool.recipes(bits)
    assert tuple(recipes) == tool.METHODS
    for recipe in recipes.values():
        options = recipe.quantize
        assert (options.weight_bits, options.activation_bits) == (bits, bits)
        assert not options.per_channel and not options.symmetric_weights and options.simulated
    assert len(set(recipes.values())) == len(recipes)


def test_ablations_reach_every_method():
    for recipe in tool.recipes(6, tool.Ablation(equalize=False)).values():
        assert not recipe.equalize and not recipe.quantize.equalized_rounding
    for recipe in tool.recipes(6, tool.Ablation(correction=False)).values():
        assert not recipe.quantize.bias_correction and not recipe.quantize.activation_correction
    for recipe in tool.recipes(6, tool.Ablation(standard_inputs=True)).values():
        assert recipe.quantize.range_source == "standard"


@pytest.mark.slow
def test_figures_on_a_tiny_model():
    model = build("relu6")
    (x,) = random_inputs(model, 20)
    y = np.asarray(model(x)).argmax(axis=-1)
    said = []

    def measured(methods, bits):
        say = lambda row, method, _: said.append(method)  # noqa: E731
        return tool.measure(model, x, y, (-3, 3), methods, bits, tool.Ablation(), say)

    with coarse_search():
        rows, ours = measured(tool.METHODS, (8,)), measured(("ours",), (8, 4))
    assert said == [*tool.METHODS, "ours", "ours"] and [row["bits"] for row in rows + ours] == [8, 8, 4]
    assert all(row["float"] == 1.0 and row[m] == row["agreement"][m] for row in rows for m in tool.METHODS)
    assert rows[0]["ours"] == ours[0]["ours"] >= max(0.8, ours[1]["ours"])
    rows = [{"model": "tiny", **row} for row in rows]
    lines = tool.markdown(rows, tool.METHODS).splitlines()
    assert lines[0] == "| model | bits | float | ours | lwdf | dfq | aciq | min_max | ar |"
    assert {line.count("|") for line in lines} == {10} and lines[2].startswith("| tiny | 8 | 100.00 |")


def test_what_is_wrong_is_told():
    done = run_tool(_TOOL, "--bits=9")
    assert done.returncode == 1 and "--bits=9: unknown 9; choose of 8, 7, 6, 5, 4" in done.stderr
    assert "relu6" in MODELS and tfdatafree.PRESETS.keys().isdisjoint(tool.METHODS[:1])
