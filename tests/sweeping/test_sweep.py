"""Sweeps: the same table whoever computes it, nothing twice, and a failure is a row."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest
from tiny_models import build

import tfdatafree
from tfdatafree import Generate, Recipe, Sweep, compress, sweep
from tfdatafree.errors import LoadError, MissingPackageError
from tfdatafree.sweeping import machines
from tfdatafree.sweeping.work import Job, do

pytestmark = pytest.mark.slow
QUICK = Recipe(name="quick", generate=Generate(images=4, samples=200, effort="fast"))
WIDE = Recipe(name="wide", quantize=tfdatafree.Quantize(activation_bits=16), generate=QUICK.generate)
OPTIONS = {"input_range": (-1, 1), "pages": False, "workers": 0}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    """Files of two models that can be compressed, and of one that cannot be read."""
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / f"{name}.keras" for name in ("plain", "depthwise")]
    for path in paths:
        build(path.stem).save(path)
    (folder / "broken.keras").write_bytes(b"PK no model")
    return [*paths, folder / "broken.keras"]


@pytest.fixture(scope="module")
def swept(models, tmp_path_factory) -> Sweep:
    return sweep(models, [QUICK, WIDE], folder=tmp_path_factory.mktemp("swept"), max_bytes=10_000, **OPTIONS)


def lines_of(swept: Sweep) -> list[dict[str, str]]:
    with (swept.folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_point_is_what_compress_makes(swept):
    assert [(row["model"], row["recipe"]) for row in swept.rows] == [
        (model, recipe) for model in ("plain", "depthwise", "broken") for recipe in ("quick", "wide")
    ]
    for row in swept.rows[:4]:
        alone = compress(
            build(row["model"]), {"quick": QUICK, "wide": WIDE}[row["recipe"]], input_range=(-1, 1), verbose=0
        )
        assert (swept.folder / row["file"]).stat().st_size == row["bytes"] == len(alone.tflite) == alone.report.bytes
        assert row["loss"] == alone.report.outputs[0].response_discrepancy


def test_a_failure_is_a_row_that_says_why(swept):
    assert [row["model"] for row in swept.failures] == ["broken", "broken"]
    assert all(row["error"].startswith("LoadError: 'broken.keras'") and row["file"] is None for row in swept.failures)
    assert swept.choices["broken", "generic"].why == "no file was made"
    assert swept.choices["plain", "generic"].row in swept.rows and "points/plain-" in str(swept)


def test_table_json_and_page_say_the_same(swept):
    lines, record = lines_of(swept), json.loads((swept.folder / "sweep.json").read_text())
    assert [line["key"] for line in lines] == [point["key"] for point in record["points"]]
    assert [line["recommended"] for line in lines] == [str(row["recommended"]) for row in swept.rows]
    page = (swept.folder / "index.html").read_text()
    links = set(re.findall(r'href="(points/[^"]+)"', page))
    assert links and all((swept.folder / link).is_file() for link in links)
    for row in swept.rows[:4]:
        assert {row["file"], row["report"], row["recipe_file"]} <= links and f"{row['bytes']:,}" in page


def test_the_recipe_of_a_point_makes_its_file_again(swept, models):
    row = swept.rows[0]
    again = compress(models[0], swept.folder / row["recipe_file"], input_range=(-1, 1), verbose=0)
    assert again.tflite == (swept.folder / row["file"]).read_bytes()


def test_what_is_there_and_whole_is_not_computed_again(swept, models, monkeypatch):
    table, done = (swept.folder / "sweep.csv").read_bytes(), []
    monkeypatch.setattr("tfdatafree.sweeping.sweep.do", lambda job, content: done.append(job.title) or do(job, content))
    again = dict(folder=swept.folder, max_bytes=10_000, **OPTIONS)
    sweep(models, [QUICK, WIDE], **again)
    assert done == [] and (swept.folder / "sweep.csv").read_bytes() == table
    file = swept.folder / swept.rows[1]["file"]
    content = file.read_bytes()
    file.write_bytes(content[:-1])  # as nothing here would leave it
    (swept.folder / swept.rows[2]["file"]).with_name("result.json").unlink()  # as kill -9 would leave it
    sweep(models, [QUICK, WIDE], **again)
    assert done == ["plain, wide", "depthwise, quick"]
    assert file.read_bytes() == content and (swept.folder / "sweep.csv").read_bytes() == table


def test_workers_write_the_same_table_and_the_same_bytes(swept, models, tmp_path):
    pytest.importorskip("distributed", reason="no dask.distributed: pip install 'tfdatafree[sweep]'")
    told: list[str] = []
    options = OPTIONS | {"workers": 1, "memory": 6 * 10**9}
    other = sweep(models, [QUICK, WIDE], folder=tmp_path / "out", max_bytes=10_000, tell=told.append, **options)
    assert (other.folder / "sweep.csv").read_bytes() == (swept.folder / "sweep.csv").read_bytes()
    for row in swept.rows[:4]:
        assert (other.folder / row["file"]).read_bytes() == (swept.folder / row["file"]).read_bytes()
    assert any("1 workers of one thread, each with at most 6 GB" in line for line in told)
    assert sum("starts on worker" in line for line in told) == 6 and sum(" of 6: " in line for line in told) == 6


def test_a_failure_that_may_pass_is_tried_again(models, tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr("tfdatafree.sweeping.work._compressed", full)
        first = sweep(models[0], [QUICK], folder=tmp_path, **OPTIONS)
    assert first.rows[0]["error"] == "MemoryError: no memory left"
    assert sweep(models[0], [QUICK], folder=tmp_path, **OPTIONS).rows[0]["error"] == ""


def test_a_model_in_memory_is_known_by_what_it_is(tmp_path, monkeypatch):
    model = build("plain")
    first = sweep(model, [QUICK], folder=tmp_path, **OPTIONS)
    monkeypatch.setattr("tfdatafree.sweeping.sweep.do", None)
    assert sweep({model.name: model}, [QUICK], folder=tmp_path, **OPTIONS).rows == first.rows


def test_another_version_on_a_worker_is_told():
    job = Job(key="", title="", file="a.keras", recipe=QUICK, arguments={}, pages=False, version="9.9")
    result = do(job, b"")
    assert "the worker has tfdatafree" in result.error and not result.final


def test_wrong_arguments_are_refused_before_the_work(models, tmp_path, monkeypatch):
    for arguments, error, message in (
        ({"models": []}, ValueError, "models is empty"),
        ({"models": [3]}, ValueError, "models hold a int"),
        ({"models": "missing.keras"}, LoadError, "missing.keras' cannot be read"),
        ({"workers": -1}, ValueError, "workers is -1"),
        ({"scheduler": "tcp://127.0.0.1:9", "workers": 2}, ValueError, "a scheduler is given; leave one out"),
        ({"representative_data": "missing"}, LoadError, "'missing' does not exist"),
        ({"folder": tmp_path / "a" / "b"}, FileNotFoundError, "create it first"),
    ):
        given = {"models": models[0], "recipes": [QUICK], "folder": tmp_path / "out"} | OPTIONS | arguments
        with pytest.raises(error, match=message):
            sweep(given.pop("models"), given.pop("recipes"), **given)
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackageError, match=r"dask.distributed, which is not installed; run: pip .*\[sweep\]"):
        machines.require_distributed()
