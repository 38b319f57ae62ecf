"""The progress bar: what it shows, and that its stages are those of the work."""

import dataclasses
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from absl import logging
from progress_bar import frames, percents
from tiny_models import QUICK, build

from tfdatafree import Prune, Quantize, Recipe, Recover, compress
from tfdatafree.activity import report_layer
from tfdatafree.cli import main
from tfdatafree.demo import MODEL_PATH
from tfdatafree.progress import Progress

COMPRESS = sys.modules["tfdatafree.compress"]


@pytest.fixture
def shown(capsys, monkeypatch) -> Callable[[], str]:
    """Returns what was written to stderr so far. Every report is shown, even if they come fast."""
    monkeypatch.setattr("tfdatafree.progress._SHOWN_EVERY", 0)
    seen = []

    def read() -> str:
        seen.append(capsys.readouterr().err)
        return "".join(seen)

    return read


def test_it_names_stage_and_layer_and_moves_by_what_stages_take(shown):
    progress = Progress({"load": 10, "round": 70, "write": 20})
    with progress.stage("load"):
        report_layer("first")
    with progress.stage("round"):
        for at, layer in enumerate(("a", "b")):
            report_layer(layer, at / 2)
    with progress.stage("write"):
        pass
    progress.close()
    texts = [frame["text"].strip() for frame in frames(shown())]
    assert {"load: first", "round: a", "round: b", "write"} <= set(texts)
    at = dict(zip(texts, percents(shown()), strict=True))
    assert at["load"] == 10 and at["round: b"] == 45 and at["write"] == 100
    assert percents(shown()) == sorted(percents(shown()))


def test_a_stage_that_cannot_tell_its_part_moves_on_but_never_to_its_end(shown, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("tfdatafree.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = Progress({"first": 1, "second": 1})
    with progress.stage("first"):
        pass
    with progress.stage("second"):
        for at in range(200):
            report_layer(f"layer {at}")
        assert 51 < percents(shown())[-1] < 100 and len(set(percents(shown()))) > 5
    progress.close()
    assert percents(shown()) == sorted(percents(shown()))


def test_a_layer_is_reported_to_the_stage_at_work_only(shown):
    report_layer("nobody looks")
    progress = Progress({"only": 1})
    with pytest.raises(RuntimeError), progress.stage("only"):
        raise RuntimeError
    report_layer("nobody looks")
    silent = Progress({"only": 1}, verbose=0)
    with silent.stage("only"):
        report_layer("nobody looks")
    progress.close()
    assert "nobody" not in shown()


def test_a_silent_bar_tells_its_steps_to_the_stage_around_it(shown):
    progress = Progress({"before": 50, "stage": 50})
    with progress.stage("before"):
        pass
    with progress.stage("stage"):
        inner = Progress(4, verbose=0)
        for at in range(3):
            inner.step(f"step {at}")
        inner.close()
        assert frames(shown())[-1]["text"].strip() == "stage: step 2" and percents(shown())[-1] in (87, 88)
    progress.close()
    Progress(4, verbose=0).step("nobody looks")
    assert "nobody" not in shown() and percents(shown())[-1] == 100


def test_long_names_do_not_push_the_bar_aside(shown):
    progress = Progress({"stage": 1})
    with progress.stage("stage"):
        report_layer("x" * 200)
    progress.close()
    assert len({frame.string.index("%") for frame in frames(shown())}) == 1 and "…" in shown()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(quantize=None),
        Recipe(prune=Prune(sparsity=0.5, method="uniform", images=8)),
        Recipe(prune=Prune(sparsity=0.2, method="channel", images=8)),
        Recipe(quantize=None, prune=Prune(sparsity=0.5, method="uniform", images=8)),
        Recipe(quantize=None, prune=Prune(sparsity=0.2, method="channel", images=8)),
        Recipe(quantize=Quantize(activation_bits=4)),
        Recipe(recover=Recover(images=4)),
    ],
    ids=str,
)
@pytest.mark.slow
def test_the_stages_that_are_announced_are_those_that_come(recipe, monkeypatch):
    came, stage, recipe = [], Progress.stage, dataclasses.replace(recipe, generate=QUICK)
    monkeypatch.setattr(Progress, "stage", lambda self, name: came.append(name) or stage(self, name))
    compress(build("plain"), recipe, input_range=(-1, 1), verbose=0)
    assert came == list(COMPRESS._expected_seconds(recipe))


@pytest.mark.slow
def test_stages_and_their_times_are_logged_for_those_who_ask(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert main(["compress", str(MODEL_PATH), "-o", "a.tflite"]) == 0
    assert not [record for record in caplog.records if record.filename == "progress.py"]
    before = logging.get_verbosity()
    assert main(["compress", str(MODEL_PATH), "-o", "b.tflite", "--verbose"]) == 0
    logged = [record.getMessage() for record in caplog.records if record.filename == "progress.py"]
    assert [line.split(":")[0] for line in logged] == list(COMPRESS._expected_seconds(Recipe()))
    assert logging.get_verbosity() == before


# Lines


def test_lines_tell_each_stage_as_it_begins_and_the_time_left_of_a_long_one(shown, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tfdatafree.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = Progress({"load": 1, "prune": 9}, verbose=2)
    with progress.stage("load"):
        assert shown().endswith(" s  load\n")
    with progress.stage("prune"):
        for at in range(200):
            now[0] = float(at)
            report_layer(f"layer {at}", at / 200)
    progress.close()
    told = [line.partition(" s  ")[2] for line in shown().splitlines()]
    assert told[:2] == ["load", "prune"]
    left = [re.fullmatch(r"prune: (\d+) % done, about (\d+) (s|min) left of it", line) for line in told[2:]]
    assert 3 <= len(left) <= 8 and all(left), "each comes after twice the time of the one before"
    for found in left:
        part, seconds = int(found[1]) / 100, int(found[2]) * (60 if found[3] == "min" else 1)
        assert seconds == pytest.approx((1 - part) * 200, abs=31)


def test_steps_tell_the_time_left_too(shown, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tfdatafree.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = Progress(10, verbose=2)
    for at in range(10):
        now[0] += 3
        progress.step(f"loss {at}")
    assert re.search(r"loss 1: 20 % done, about 24 s left of it", shown())


def test_short_stages_and_silence_tell_no_time(shown):
    for verbose, lines in ((2, 1), (0, 0)):
        before = shown().count("\n")
        progress = Progress({"load": 1}, verbose)
        with progress.stage("load"):
            for at in range(100):
                report_layer(f"layer {at}", at / 100)
        assert shown().count("\n") - before == lines
