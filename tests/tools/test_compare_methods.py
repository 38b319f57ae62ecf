"""Tests of tools/compare_methods.py: rows measured once, tables and plots of them, and methods of equal means."""

import sys
from pathlib import Path

import pytest
from run_tool import run_tool
from tiny_models import build, coarse_search, untraced

_TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(_TOOLS))
import comparators  # noqa: E402
import compare_methods as tool  # noqa: E402
from kept_rows import KeptRows  # noqa: E402


def row(method: str, level: float = 4, top1: float = 0.9, **others) -> dict:
    figures = {"float": 0.95, "top1": top1, "agreement": 0.9, "seconds": 3.0, "memory_mb": 70.0}
    return {"network": "net", "kind": "bits", "level": level, "method": method, "seed": 0, **figures, **others}


def test_a_row_is_measured_once_and_a_failed_one_again(tmp_path):
    path, measured = tmp_path / "rows.jsonl", []

    def measure(figures: dict) -> dict:
        measured.append(figures)
        return figures

    first = KeptRows(path).row({"method": "a", "seed": 1}, lambda: measure({"top1": 0.5}))
    again = KeptRows(path).row({"seed": 1, "method": "a"}, lambda: measure({"top1": 0.7}))
    assert first == again == {"method": "a", "seed": 1, "top1": 0.5} and len(measured) == 1
    for _ in range(2):
        failed = KeptRows(path).row({"method": "b"}, lambda: measure({"error": "no"}))
    assert failed == {"method": "b", "error": "no"} and len(measured) == 3


def test_a_half_written_line_is_measured_again_and_harms_no_other(tmp_path):
    path = tmp_path / "rows.jsonl"
    kept = KeptRows(path)
    for name in ("a", "b"):
        kept.row({"method": name}, lambda name=name: {"top1": name})
    path.write_text(path.read_text()[:-9])
    kept = KeptRows(path)
    assert kept.row({"method": "b"}, lambda: {"top1": "new"})["top1"] == "new"
    kept = KeptRows(path)
    assert [kept.row({"method": name}, dict)["top1"] for name in ("a", "b")] == ["a", "new"]


def test_tables_have_a_column_per_method_and_the_spread_of_seeds():
    rows = [
        row("ours"),
        row("akd", top1=0.5),
        row("akd", top1=0.625, seed=1),
        row("ours", 8),
        {**row("akd", 8), "error": "x"},
    ]
    del rows[-1]["top1"]
    lines = tool.markdown(rows, "bits").splitlines()
    assert lines[0] == "| network | bits | float | ours | akd |"
    assert lines[2:] == ["| net | 4 | 95.0 | 90.0 | 50.0 to 62.5 |", "| net | 8 | 95.0 | 90.0 | failed |"]
    assert tool.markdown(rows, "sparsity") == ""
    assert tool.costs(rows).splitlines()[2] == "| ours | 3 | 70 |"


def test_plots_are_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [row("ours"), row("akd", top1=0.5), row("ours", 0.8, kind="sparsity")]
    written = tool.plot(rows, tmp_path / "plots")
    assert [path.name for path in written] == ["bits.png", "sparsity.png", "costs.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


@pytest.mark.parametrize("method", comparators.DISTILLED)
def test_every_method_that_trains_has_the_same_steps_and_images(method):
    effort = comparators.Effort(images=16, image_steps=3, steps=20, batch_size=4)
    found = comparators.Task(model=None, input_range=(0, 1), effort=effort, seed=0).settings(method)
    assert (found.steps, found.batch_size) == (20, 4)
    assert getattr(found.images, "images", 16) == 16 and getattr(found.images, "warm_up", 5) == 5


@pytest.mark.slow
def test_methods_compress_a_tiny_model():
    effort = comparators.Effort(images=8, image_steps=2, steps=2, batch_size=8)
    task = comparators.Task(model=build("plain"), input_range=(-1, 1), effort=effort, seed=0)
    with untraced(), coarse_search():
        models = [task.quantized("zq", 4), task.pruned("zaq", 0.5)]
    assert all(model.output_shape == build("plain").output_shape for model in models)


def test_what_is_wrong_is_told():
    for flag, message in (
        ("--bits=3", "--bits=3: give numbers from 4 to 8"),
        ("--methods=qdrop", "--methods=qdrop: unknown qdrop; choose of ours"),
        ("--sparsities=all", "--sparsities=all: give numbers from 0.01 to 0.99"),
    ):
        done = run_tool(_TOOLS / "compare_methods.py", flag)
        assert done.returncode == 1 and message in done.stderr
