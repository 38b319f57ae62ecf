"""Recovery as a part of a recipe: its results, its errors, and how a recipe or the command line sets it."""

import dataclasses
import functools
import json
import time
from collections.abc import Iterator

import keras
import numpy as np
import pytest
from progress_bar import without_progress
from tiny_models import QUICK, build, untraced, without_metadata

from tfdatafree import (
    Generate,
    Prune,
    Quantize,
    Recipe,
    Recover,
    Rule,
    Search,
    UnsupportedModelError,
    compress,
    feature_regression,
    generate_images,
)
from tfdatafree.cli import main
from tfdatafree.demo import MODEL_PATH
from tfdatafree.progress import Progress
from tfdatafree.recipe.file import read_recipe, recipe_text
from tfdatafree.recovery import recover as recovery
from tfdatafree.recovery.problem import Judge
from tfdatafree.report.reproduce import python_text

pytestmark = pytest.mark.slow

SEED = 3
W4 = Recipe(
    quantize=Quantize(weight_bits=4, int4=True, rounding="nearest", bias_correction=False),
    generate=QUICK,
    recover=Recover(images=40),
)
SMALL = dataclasses.replace(W4, recover=Recover(images=16, image_size=6, steps=3))
PRUNED = dataclasses.replace(SMALL, prune=Prune(sparsity=0.5, method="energy", images=8))
SEARCHED = Recipe(
    policy=Search(size=0.99, images=4),
    quantize=Quantize(rounding="nearest"),
    generate=QUICK,
    recover=Recover(images=16, image_size=6),
)


@pytest.fixture(scope="module", autouse=True)
def images_of_few_steps() -> Iterator[None]:
    """What images are matched to, and how well, is another file's subject. Few steps are not worth tracing."""
    with pytest.MonkeyPatch.context() as patch, untraced():
        patch.setattr(recovery, "generate_images", functools.partial(generate_images, steps=2))
        yield


def compressed(recipe: Recipe, seed: int = SEED):
    return compress(build("plain"), recipe, input_range=(-1, 1), seed=seed, verbose=0)


@functools.cache
def found_once(recipe: Recipe):
    return compressed(recipe)


def student_of(recipe: Recipe):
    return found_once(dataclasses.replace(recipe, recover=None))


@functools.cache
def images_for(asked: Recover):
    return recovery.generate_images(
        build("plain"), asked.images, image_size=asked.image_size, input_range=(-1, 1), statistics="set",
        batch_size=32, seed=SEED, verbose=0,
    )  # fmt: skip


@functools.cache
def by_hand(recipe: Recipe):
    """(the student, what feature_regression makes of it)."""
    student, images = student_of(recipe), images_for(recipe.recover)
    steps = recipe.recover.steps
    return student, feature_regression(student, build("plain"), images, steps=steps, seed=SEED, verbose=0)


@pytest.mark.parametrize("recipe", [W4, PRUNED], ids=["solved", "pruned, small and trained"])
def test_the_recipe_gives_what_the_three_functions_give(recipe, tmp_path):
    result, (student, recovered) = found_once(recipe), by_hand(recipe)
    files = [without_metadata(each.tflite) for each in (result, recovered.compressed, student)]
    assert files[0] == files[1] != files[2]
    assert recovered.after < recovered.before
    assert result.recipe == recipe and result.weight_grids == recovered.compressed.weight_grids
    note = result.report.notes["feature regression"]
    assert note == recovered.compressed.report.notes["feature regression"]
    assert note.startswith(f"{'trained' if recipe.recover.steps else 'solved'} on {recipe.recover.images} images: ")
    assert result.report.bytes == len(result.tflite) and result.report.outputs == recovered.compressed.report.outputs
    assert read_recipe(result.save(tmp_path / "record.json")) == recipe


def test_another_seed_gives_another_file():
    assert found_once(SMALL).tflite != compressed(SMALL, seed=4).tflite


def test_again_it_is_the_same_the_model_stays_and_the_report_counts_the_time_for_images(monkeypatch):
    model, spent, original = build("plain"), [], recovery.generate_images

    def timed(*args, **options):
        started = time.perf_counter()
        images = original(*args, **options)
        spent.append(time.perf_counter() - started)
        return images

    monkeypatch.setattr(recovery, "generate_images", timed)
    before = [np.array(w) for w in model.get_weights()]
    started = time.perf_counter()
    result = compress(model, SMALL, input_range=(-1, 1), seed=SEED, verbose=0)
    passed = time.perf_counter() - started
    assert result.tflite == found_once(SMALL).tflite
    assert 0 <= passed - result.report.seconds < spent[0]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_student_is_returned_where_nothing_is_better(monkeypatch):
    original, calls = Judge.discrepancy, []

    def ever_worse(*args):
        calls.append(original(*args))
        return float(len(calls)) if len(calls) > 1 else 0.5  # the first is the student's

    monkeypatch.setattr(Judge, "discrepancy", ever_worse)
    result = compressed(SMALL)
    assert len(calls) > 1 and without_metadata(result.tflite) == without_metadata(student_of(SMALL).tflite)
    assert "0.5 -> 0.5" in result.report.notes["feature regression"]


def test_a_file_found_by_a_search_keeps_its_size_and_replays():
    result = found_once(SEARCHED)
    assert result.report.bytes <= result.report.policy.budget and "feature regression" in result.report.notes
    assert compressed(result.replay).tflite == result.tflite


def test_a_file_that_is_too_large_is_not_returned(monkeypatch):
    original = recovery.feature_regression

    def larger(*args, **options):
        result = original(*args, **options)
        report = dataclasses.replace(result.compressed.report, bytes=10**9)
        return dataclasses.replace(result, compressed=dataclasses.replace(result.compressed, report=report))

    monkeypatch.setattr(recovery, "feature_regression", larger)
    result = compressed(SEARCHED)
    assert without_metadata(result.tflite) == without_metadata(student_of(SEARCHED).tflite)
    assert "none: its file would take 1,000,000,000 bytes" in result.report.notes["recovery"]


def test_without_integer_weights_there_is_a_note_and_no_images(monkeypatch):
    monkeypatch.setattr(recovery, "generate_images", None)
    result = compressed(dataclasses.replace(W4, rules=(Rule("*", keep_float=True),)))
    assert result.report.notes["recovery"].startswith("none: no layer has integer weights")


def test_simulated_networks_recover_too():
    result = compressed(dataclasses.replace(SMALL, quantize=Quantize(weight_bits=4, activation_bits=6)))
    assert "feature regression" in result.report.notes and result.report.simulated


# Solve only -------------------------------------------------------------------------------------------------------------


def test_no_steps_solve_only_and_show_no_bar(capsys):
    (student, recovered), model, images = by_hand(W4), build("plain"), images_for(W4.recover)
    capsys.readouterr()
    for mode in ("network", "blocks"):
        result = feature_regression(student, model, images, steps=0, mode=mode, seed=SEED)
        assert len(result.loss) == 0 and not any(result.steps.values())
        assert result.compressed.tflite == recovered.compressed.tflite
    assert capsys.readouterr().err == ""
    kept = feature_regression(student, model, images, steps=0, solve=False, reestimate=False, verbose=0)
    assert kept.after == kept.before
    assert without_metadata(kept.compressed.tflite) == without_metadata(student.tflite)


# Refusals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"images": 1}, "images is 1; give a whole number of at least 2"),
        ({"images": True}, "images is True"),
        ({"image_size": 0}, "image_size is 0; give a whole number of at least 1"),
        ({"steps": -1}, "steps is -1; give a whole number of at least 0"),
        ({"steps": 0.5}, "steps is 0.5"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recover(**options)
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict({"recover": options})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"quantize": None}, r"recover works on integers, but quantize is None.*feature_regression\("),
        ({"quantize": None, "float16": True}, "recover works on integers"),
        ({"prune": Prune(sparsity=0.2, method="channel")}, "prune.method is 'channel', which takes channels out"),
    ],
)
def test_recipes_that_cannot_be_recovered_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(recover=Recover(), **options)
    with pytest.raises(ValueError, match=r"recover is 128; give its options as a Recover\(...\)"):
        Recipe(recover=128)


@pytest.mark.parametrize(
    "name, options, error, message",
    [
        ("no_bias", {}, UnsupportedModelError, r"has no BatchNorm.*leave recover out.*feature_regression\("),
        ("flatten_dense", {"image_size": 6}, UnsupportedModelError, r"\(Dense\) cannot work on inputs of shape"),
        ("two_inputs", {"image_size": 6}, ValueError, "image_size is for models with one input"),
    ],
)
def test_models_that_cannot_be_recovered_are_refused_before_any_work(name, options, error, message, monkeypatch):
    stages, stage = [], Progress.stage
    monkeypatch.setattr(Progress, "stage", lambda self, name: stages.append(name) or stage(self, name))
    model = build(name)
    has = any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    assert has == ("image_size" in options)
    with pytest.raises(error, match=message):
        compress(model, Recipe(recover=Recover(images=8, **options)), input_range=(-1, 1), verbose=0)
    assert stages == ["load"]


# Files and the command line ---------------------------------------------------------------------------------------------


def test_a_recipe_file_and_the_program_on_the_page_ask_for_it(tmp_path):
    for ending in ("json", "yaml"):
        path = tmp_path / f"recipe.{ending}"
        path.write_text(recipe_text(SMALL, path))
        assert read_recipe(path) == SMALL
    assert Recipe.from_dict({"base": "int8", "recover": {"steps": 5}}).recover == Recover(steps=5)
    assert Recipe().recover is None and Recipe.from_dict({"recover": None}) == Recipe()
    result = compressed(dataclasses.replace(W4, generate=Generate(), recover=Recover(images=8, image_size=4)))
    program = python_text(result.recipe, result.report.call)
    assert program.startswith("from tfdatafree import compress, Quantize, Recipe, Recover\n")
    assert "recover=Recover(images=8, image_size=4)" in program and "feature_regression" not in program
    assert program.endswith('compressed.save("model.tflite")')
    names = {"model": build("plain")}
    exec(program.replace('compressed.save("model.tflite")', "").replace("input_range", "verbose=0, input_range"), names)
    assert names["compressed"].tflite == result.tflite


def test_the_command_line_asks_for_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    build("plain").save("plain.keras")
    options = {"quantize": {"weight_bits": 4}, "generate": {"images": 4}, "recover": {"image_size": 6, "steps": 1}}
    (tmp_path / "mine.json").write_text(json.dumps(options))
    line = ["compress", "plain.keras", "-o", "a.tflite", "--input_range=-1,1", "--recipe=mine.json", "--recover=8"]
    assert main([*line, "--report=a.json"]) == 0
    assert "feature regression: trained on 8 images" in capsys.readouterr().out
    record = json.loads((tmp_path / "a.json").read_text())
    recover = Recover(images=8, image_size=6, steps=1)
    assert record["recipe"]["recover"] == dataclasses.asdict(recover)
    recipe = Recipe(quantize=Quantize(weight_bits=4), generate=Generate(images=4), recover=recover)
    assert read_recipe(tmp_path / "a.json") == recipe
    assert (tmp_path / "a.tflite").stat().st_size == record["report"]["bytes"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--recover=many"], "recover is 'many'; give one number"),
        (["--recover=64,128"], "recover is '64,128'; give one number"),
        (["--recover=1"], "recover is 1; give a number of generated images of at least 2"),
        (["--recover=8", "--recipe=float16"], "recover works on integers"),
    ],
)
def test_the_command_line_says_what_is_wrong(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compress", str(MODEL_PATH), "-o", "a.tflite", *flags]) in (1, 2)
    printed = capsys.readouterr()
    error = without_progress(printed.err)
    assert printed.out == "" and error.startswith("error: ") and message in error
    assert list(tmp_path.iterdir()) == []
