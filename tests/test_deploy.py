"""What the page on running the file says is so: its Python runs, its names and its table are the package's."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from tiny_models import QUICK, build, random_inputs
from tiny_models import compressed as compressed_once

from tfdatafree import PRESETS, Quantize, Recipe
from tfdatafree.model.graph import Graph
from tfdatafree.targets.registry import TARGETS, get_target

PAGE = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def quick(preset: str) -> Recipe:
    return dataclasses.replace(PRESETS[preset], generate=QUICK)


@pytest.mark.parametrize("recipe", ["int8", "int16x8"])
@pytest.mark.slow
def test_its_python_computes_what_predict_computes(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build("plain")
    compressed = compressed_once("plain", quick(recipe))
    compressed.save("model.tflite")
    x = random_inputs(model, 1)[0]
    with_interpreter, with_compiled_model = blocks("python")
    names = {"x": x}
    exec(with_interpreter, names)
    np.testing.assert_allclose(names["y"], compressed.predict(x), rtol=1e-6)
    if recipe == "int8":
        exec(with_compiled_model, names)
        np.testing.assert_allclose(names["compiled_y"], names["y"].ravel(), rtol=1e-6)


def test_its_formula_is_the_runtimes():
    compressed = compressed_once("plain", quick("int8"))
    x = random_inputs(build("plain"), 1)[0]
    run = Interpreter(model_content=compressed.tflite).get_signature_runner("serving_default")
    (name, source), (result_name, result) = (*run.get_input_details().items(), *run.get_output_details().items())
    (scale, zero_point), (step, zero) = source["quantization"], result["quantization"]
    q = np.clip(np.round(x / scale) + zero_point, -128, 127).astype(np.int8)
    y = step * (run(**{name: q})[result_name].astype(np.float32) - zero)
    np.testing.assert_allclose(y, compressed.predict(x), rtol=1e-6)


@pytest.mark.parametrize("input_range", [(0, 255), (0, 1)])
@pytest.mark.slow
def test_bytes_of_an_image_are_a_uint8_files_input(input_range):
    recipe = Recipe(quantize=Quantize(edge_dtype="uint8"), generate=QUICK)
    content = compressed_once("plain", recipe, input_range=input_range).tflite
    ((_, source),) = Interpreter(model_content=content).get_signature_runner().get_input_details().items()
    scale, zero_point = source["quantization"]
    levels = np.linspace(*input_range, 256)
    np.testing.assert_array_equal(np.rint(levels / scale) + zero_point, np.arange(256))


@pytest.mark.parametrize("recipe", ["int8", "float16"])
@pytest.mark.parametrize("name", ["two_inputs", "two_outputs", "dict_outputs"])
@pytest.mark.slow
def test_a_signature_leads_to_the_tensors_of_that_name(name, recipe):
    """By name, in any order: the same as `predict` gives in the model's order."""
    model = build(name)
    compressed = compressed_once(name, quick(recipe))
    inputs = random_inputs(model, 1)
    run = Interpreter(model_content=compressed.tflite).get_signature_runner("serving_default")
    named = dict(zip((x.name for x in model.inputs), inputs, strict=True))
    given = {}
    for key in reversed(named):
        scale, zero_point = run.get_input_details()[key]["quantization"]
        value = named[key]
        given[key] = np.clip(np.rint(value / scale) + zero_point, -128, 127).astype(np.int8) if scale else value
    found = run(**given)
    expected = compressed.predict(inputs)
    outputs = Graph.from_keras(model).output_names
    assert set(found) == set(outputs) and len(outputs) == len(model.outputs)
    for key, value in zip(outputs, expected if isinstance(expected, list) else [expected], strict=True):
        scale, zero_point = run.get_output_details()[key]["quantization"]
        real = scale * (found[key].astype(np.float32) - zero_point) if scale else found[key]
        np.testing.assert_allclose(real, value, rtol=1e-5, atol=1e-6)


def test_its_table_is_that_of_the_profiles():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")
    ]
    named = {name: row for row in rows for name in re.findall(r"`([\w-]+)`", row[0])}
    assert set(named) == set(TARGETS)
    for name, (_, activations, dense, rest) in named.items():
        target = TARGETS[name]
        assert activations == f"{', '.join(map(str, target.activation_bits))} bits"
        steps = "per channel" if target.dense_per_channel else "per tensor"
        assert dense == (steps if target.per_channel else "per tensor, like all layers")
        assert ("the whole file" in rest) == target.all_or_none
        assert ("is an error" in rest) == target.needs_all
    flags = set(re.findall(r"--target=([\w-]+)", PAGE))
    assert len([get_target(name) for name in flags]) >= 3
