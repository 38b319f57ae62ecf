"""Boxes beside scores on one grid: named, and mended by outputs of their own or by 16 bits."""

import functools
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import image, quick, random_inputs, randomized, without_metadata

from tfdatafree import Quantize, Recipe, compress, diagnose, output_discrepancy
from tfdatafree.compare import compare
from tfdatafree.numerics.metrics import sqnr_db
from tfdatafree.report.contents import inspect_file

pytestmark = pytest.mark.slow


@functools.cache
def _detector(pixels: float = 640.0, kind: str = "beside") -> keras.Model:
    x = image()
    y = L.Conv2D(6, 3, padding="same", activation="relu", name="features")(x)
    boxes = L.Rescaling(pixels)(L.Conv2D(4, 1, activation="sigmoid", name="boxes")(y))
    scores = L.Conv2D(5, 1, activation="softmax", name="scores")(y)
    results = {
        "beside": lambda: L.Reshape((64, 9), name="rows")(L.Concatenate(name="both")([boxes, scores])),
        "read on": lambda: L.Conv2D(3, 1, name="last")(L.Concatenate(name="both")([boxes, scores])),
        "one head": lambda: L.Rescaling([640.0] * 4 + [1.0] * 5, name="head")(
            L.Conv2D(9, 1, activation="sigmoid", name="conv")(y)
        ),
    }
    return randomized(keras.Model(x, results[kind]()))


@functools.cache
def _compressed(pixels: float = 640.0, kind: str = "beside", **options):
    return quick(_detector(pixels, kind), Quantize(**options))


def test_lost_branches_are_named_with_their_steps():
    report = _compressed().report
    (warning, unlike) = report.warnings
    assert (
        "'scores' needs steps of 0.0039" in warning and "'boxes' forces" in warning and "split_outputs=True" in warning
    )
    assert "'scores' in output 'rows' is unlike" in unlike
    (output,) = report.outputs
    boxes, scores = output.parts
    assert (boxes.name, scores.name) == ("boxes", "scores") and output.worst is scores
    assert scores.sqnr_db < 6 < 20 < boxes.sqnr_db, "the boxes alone look good"
    assert output.agreement is None and boxes.agreement is None and scores.agreement < 1
    for text in (str(report), report._repr_html_()):
        assert "scores" in text
    assert report.to_dict()["outputs"][0]["parts"][1]["name"] == "scores"


def test_branches_with_outputs_of_their_own_keep_their_values(tmp_path):
    model, split = _detector(), _compressed(split_outputs=True)
    file = split.save(tmp_path / "split.tflite")
    first, second = (output.name for output in inspect_file(file).outputs)
    assert first.startswith("rescaling") and second == "scores_softmax"
    assert split.report.warnings == []
    (x,) = (np.clip(values, -1, 1) for values in random_inputs(model, 4))
    wanted, found = model.predict(x, verbose=0), split.predict(x)
    scores = keras.Model(model.input, model.get_layer("scores").output)
    alone = sqnr_db(scores.predict(x, verbose=0), quick(scores).predict(x))
    assert found.shape == wanted.shape and sqnr_db(wanted[..., 4:], found[..., 4:]) > alone - 1 > 20
    assert sqnr_db(found, split.model.predict(x, verbose=0)) > 40, "file and simulation agree"
    model.save(tmp_path / "float.keras")
    for form in (split, split.tflite, file):
        assert output_discrepancy(model, form, x) == pytest.approx(output_discrepancy(model, split.model, x), abs=1e-3)
    (compared,) = compare(tmp_path / "float.keras", file, data=x).outputs
    assert compared.parts[1].sqnr_db == pytest.approx(sqnr_db(wanted[..., 4:], found[..., 4:]))


def test_the_code_of_the_guide_gives_what_predict_gives(tmp_path, monkeypatch):
    split = _compressed(split_outputs=True)
    monkeypatch.chdir(tmp_path)
    split.save("model.tflite")
    page = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Interpreter" in block)
    (x,) = random_inputs(_detector(), 1)
    names = {"q": split.built.grids["image"].quantize(x).astype(np.int8)}
    exec(code, names)
    (line,) = split.report.decoding.values()
    assert line.startswith('np.concatenate([y["boxes"], y["scores"]], axis=-1)')
    for found in (names["predictions"].reshape(1, 64, 9), eval(line, names)):
        np.testing.assert_array_equal(found, split.predict(x))


def test_the_argument_and_the_option_give_the_same_file():
    recipe = Recipe(quantize=Quantize(split_outputs=True))
    by_option, by_argument = (
        compress(_detector(), recipe=given, input_range=(-1, 1), verbose=0, **options)
        for given, options in ((recipe, {}), ("int8", {"split_outputs": True}))
    )
    assert without_metadata(by_option.tflite) == without_metadata(by_argument.tflite)
    with pytest.raises(ValueError, match="split_outputs is True, but recipe 'float16' leaves everything in float"):
        compress(_detector(), "float16", split_outputs=True, verbose=0)


def test_branches_of_similar_ranges_are_left_alone():
    plain, asked = _compressed(2.0), _compressed(2.0, split_outputs=True)
    assert plain.report.warnings == []
    assert without_metadata(plain.tflite) == without_metadata(asked.tflite)
    assert "nothing is split" in asked.report.notes["split_outputs"]


def test_tensors_that_layers_read_get_16_bits_where_the_target_has_them():
    wide = _compressed(100.0, kind="read on")
    assert wide.report.warnings == []
    assert wide.built.grids["both"].bits == 16 and wide.built.grids["last"].bits == 8
    assert "'scores' needs steps" in wide.report.notes["both"]
    narrow = quick(_detector(kind="read on"), target="edgetpu")
    assert narrow.built.grids["both"].bits == 8
    assert any("'scores' needs steps" in text and "no 16 bits" in text for text in narrow.report.warnings)
    outside, inside = _compressed(100.0, edge_dtype="float32"), _compressed(100.0)
    assert outside.built.grids["both"].bits == 16 and inside.built.grids["both"].bits == 8, "an 8-bit output holds it"
    assert outside.report.outputs[0].parts[1].sqnr_db > inside.report.outputs[0].parts[1].sqnr_db + 12


def test_channels_of_one_layer_are_named():
    report = _compressed(kind="one head").report
    narrow, wide = report.outputs[0].parts
    assert (narrow.name, wide.name) == ("channels 4-8", "channels 0-3")
    assert any("channels 4-8 need steps" in text and "channels 0-3 force" in text for text in report.warnings)


def test_diagnosis_looks_at_each_branch():
    found = diagnose(_detector(), input_range=(-1, 1), images=2, verbose=0)
    worst = found.suspects[0]
    assert worst.name == "both" and worst.error > 0.5, "one grid for both takes the scores"
    split = diagnose(
        _detector(), Recipe(quantize=Quantize(split_outputs=True)), input_range=(-1, 1), images=2, verbose=0
    )
    errors = {name.split(": ")[1]: error for name, error in found.errors.items()}
    assert errors["scores"] == found.error > 0.5 > 0.05 > errors["boxes"] and "both: scores" in str(found)
    assert split.error < 0.1 and "both" not in {suspect.name for suspect in split.suspects}
