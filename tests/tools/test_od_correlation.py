"""Tests of tools/od_correlation.py: its variants, its figures, its tables."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from run_tool import run_tool
from tiny_models import build, random_inputs, untraced

import tfdatafree
from tfdatafree import generate_images

_TOOL = Path(__file__).resolve().parents[2] / "tools" / "od_correlation.py"
_spec = importlib.util.spec_from_file_location("od_correlation", _TOOL)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def rows_of(top1, matched):
    rows = [{"variant": "float", "top1": 0.9, "agreement": 1.0}]
    for at, (accuracy, discrepancy) in enumerate(zip(top1, matched, strict=True)):
        figures = {"matched": discrepancy, "real": -accuracy}
        values = {"top1": accuracy, "agreement": accuracy / 2, "od": figures, "response": {"matched": -accuracy}}
        rows.append({"variant": f"v{at}"} | values)
    return rows


def test_there_are_enough_variants_and_none_needs_a_file():
    recipes = tool.variants()
    assert len(recipes) >= 40 and len(set(recipes.values())) == len(recipes)
    assert all(recipe.quantize is None or recipe.quantize.simulated for recipe in recipes.values())


def test_rho_is_one_where_less_discrepancy_is_more_accuracy():
    top1 = [0.3, 0.5, 0.7, 0.88, 0.89]
    matched, real, response, agreement = tool.correlations(rows_of(top1, [1.2, 0.9, 0.6, 0.1, 0.2]), good=7)
    assert (real["images"], real["top1_good"]) == ("real", None) and real["top1"] == pytest.approx(1)
    assert matched["good"] == 2 and 0.5 < matched["top1"] < 1
    assert (response["metric"], response["top1"]) == ("response", pytest.approx(1)) and matched["metric"] == "od"
    assert (agreement["metric"], agreement["top1"]) == ("agreement", pytest.approx(1))
    assert matched["pairs"] == real["pairs"] == 1, "the two that are out of order are half a point apart"
    assert tool.correlations(rows_of(top1, [0.9, 1.2, 0.6, 0.1, 0.2]), good=7)[0]["pairs"] == pytest.approx(8 / 9)
    (reverse, *_) = tool.correlations(rows_of(top1, top1), good=70)
    assert reverse["top1"] == reverse["agreement_good"] == pytest.approx(-1) and reverse["good"] == 5
    (alike, *_) = tool.correlations(rows_of(top1, [0.1] * 5), good=7)
    assert alike["top1"] is None


@pytest.mark.slow
def test_the_ceiling_is_what_the_truth_itself_reaches():
    """The rho between measured and true accuracy, of models that are right independently."""
    random = np.random.default_rng(0)
    truth, y = np.linspace(0.85, 0.9, 40), np.zeros(1000, int)
    decisions = np.concatenate([y[None], random.random((40, 1000)) > truth[:, None]]).astype(int)
    rows = [{"top1": float(np.mean(row == 0))} for row in decisions]
    found = tool.ceilings(rows, decisions, y, good=100)
    reached = [tool._rho(truth, (random.random((40, 1000)) < truth[:, None]).mean(axis=1)) for _ in range(100)]
    assert found["good"] == 40 and found["top1"] == found["agreement"] == found["top1_good"]
    assert found["top1"] == pytest.approx(np.mean(reached), abs=0.06) and found["top1"] < 0.95
    more = tool.ceilings(rows, np.repeat(decisions, 10, axis=1), np.repeat(y, 10), good=100)
    assert more["top1"] > found["top1"]
    assert tool.ceilings(rows, decisions * 0, y, good=100)["top1"] is None


@pytest.mark.slow
def test_what_ranks_better_than_output_discrepancy_is_ahead_in_most_draws():
    random = np.random.default_rng(0)
    truth, y = np.linspace(0.8, 0.9, 20), np.zeros(500, int)
    decisions = np.concatenate([y[None], random.random((20, 500)) > truth[:, None]]).astype(int)
    noisy = -truth + random.normal(size=20)
    rows = [{"top1": 1.0}] + [
        {"top1": float(np.mean(row == 0)), "od": {"x": noise}, "response": {"x": -wanted}}
        for row, noise, wanted in zip(decisions[1:], noisy, truth, strict=True)
    ]
    (found,) = tool.lead(rows, decisions, y, good=100)
    assert (found["images"], found["metric"]) == ("x", "response") and found["ahead"] > 0.95 and found["lead"] > 0.3
    for row in rows[1:]:
        row["response"] = row["od"]
    assert (
        tool.lead(rows, decisions, y, good=100)[0]["ahead"] == tool.lead(rows, decisions, y, good=100)[0]["lead"] == 0
    )


def quickly(*args, steps: int = 2, **options):
    """`generate_images` in a few steps, which are not worth tracing."""
    with untraced():
        return generate_images(*args, steps=steps, **options)


@pytest.mark.slow
def test_figures_tables_and_plot_of_a_tiny_model(tmp_path, monkeypatch):
    model = build("plain")
    (x,) = random_inputs(model, 40)
    y = np.asarray(model(x)).argmax(axis=-1)
    monkeypatch.setattr(tfdatafree, "generate_images", quickly)
    sets = tool.image_sets(model, x, (-2, 2), 16)
    assert tuple(sets) == tool.SETS and all(images.shape == (16, 8, 8, 3) for images in sets.values())
    names = ("global_unfolded 30%", "uniform 80%", "w8a8 feedback, per channel")
    recipes = {name: tool.variants()[name] for name in names}
    said = []
    rows, decisions = tool.measure(model, recipes, sets, x, y, None, (-2, 2), said.append)
    assert [row["variant"] for row in rows] == ["float", *names] and said == rows[1:]
    assert rows[0]["top1"] == 1 and all(row["top1"] == row["agreement"] for row in rows)
    for key in tool.METRICS:
        assert all(rows[2][key][name] > rows[3][key][name] > 0 for name in tool.SETS)
    assert [np.mean(row == y) for row in decisions] == [row["top1"] for row in rows]
    found = [*tool.correlations(rows, 100), tool.ceilings(rows, decisions, y, 100)]
    lines = tool.markdown(rows, found, tool.lead(rows, decisions, y, 100)).splitlines()
    assert lines[0].startswith("| images | figure | rho, top-1") and len(lines) == (2 + 10) + (1 + 2 + 4) + (1 + 2 + 4)
    assert lines[2].startswith("| matched | OD |") and lines[11].startswith("| 40 labelled | ceiling |")
    assert lines[15].startswith("| matched | response |")
    assert lines[20].startswith("| variant | top-1 % | agreement | OD, matched |") and "response, real |" in lines[20]
    assert len({line.count("|") for line in lines[20:]}) == 1
    pytest.importorskip("matplotlib")
    tool.plot(rows, found, tmp_path / "od.png")
    assert (tmp_path / "od.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_wrong_is_told():
    done = run_tool(_TOOL, "--zoo=nowhere")
    assert done.returncode == 1 and "no folder 'nowhere'; give --zoo" in done.stderr
