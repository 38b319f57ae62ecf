"""Recipes as plain values and as files: what is written is read, and what is wrong is named."""

import dataclasses
import json
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfdatafree
from tfdatafree import PRESETS, Generate, LoadError, MissingPackageError, Prune, Quantize, Recipe, Rule, Search
from tfdatafree.cli import main
from tfdatafree.demo import MODEL_PATH
from tfdatafree.recipe.file import is_recipe_file, read_recipe, recipe_text
from tfdatafree.report.reproduce import command_text, python_text

RULES = (Rule("block_*", weight_bits=4, activation_bits=16), Rule("logits", keep_float=True), Rule("stem"))
RECIPES = {
    **PRESETS,
    "rules": Recipe(name="mine", prune=Prune(sparsity=0.5), rules=(*RULES, Rule("Dense", sparsity=0))),
    "pattern": Recipe(prune=Prune(pattern="2:4", depthwise=True), generate=Generate(images=3)),
    "strength": Recipe(quantize=None, prune=Prune(strength=1e-5)),
    "search": Recipe(policy=Search(size=0.6), rules=RULES[:2]),
    "edges": Recipe(quantize=Quantize(activation_bits=16, edge_dtype="float32", bias_correction=False)),
}


@pytest.mark.parametrize("ending", ["json", "yaml"])
@pytest.mark.parametrize("name", RECIPES)
def test_what_is_written_is_read(name, ending, tmp_path):
    recipe = RECIPES[name]
    path = tmp_path / f"recipe.{ending}"
    path.write_text(recipe_text(recipe, path))
    assert read_recipe(path) == recipe
    changed = dataclasses.replace(recipe, absorb_bias=not recipe.absorb_bias)
    assert read_recipe(path) != changed


@settings(max_examples=50)
@given(st.lists(st.builds(
    Rule, st.text(min_size=1), weight_bits=st.sampled_from([None, 4, 8]), activation_bits=st.sampled_from([None, 8, 16])
), max_size=4))  # fmt: skip
def test_rules_of_any_name_survive(rules):
    recipe = Recipe(rules=tuple(rules))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    (line,) = [line for line in python_text(recipe, {}).splitlines() if line.startswith("recipe = ")]
    assert eval(line.removeprefix("recipe = "), vars(tfdatafree)) == recipe


def test_a_base_is_taken_over_but_for_what_is_said():
    assert Recipe.from_dict({"base": "dfq"}) is not None and Recipe.from_dict({"base": "dfq"}) == PRESETS["dfq"]
    found = Recipe.from_dict({"base": "dfq", "quantize": {"weight_bits": 6}, "rules": [{"pattern": "head"}]})
    wanted = dataclasses.replace(
        PRESETS["dfq"],
        name="custom",
        quantize=dataclasses.replace(PRESETS["dfq"].quantize, weight_bits=6),
        rules=(Rule("head"),),
    )
    assert found == wanted
    assert Recipe.from_dict({"quantize": None}) == Recipe(quantize=None)
    assert Recipe.from_dict({}) == Recipe()


def test_what_followed_from_an_option_of_the_base_follows_the_new_one():
    found = Recipe.from_dict({"base": "int8", "quantize": {"activation_bits": 16}})
    assert found.quantize == Quantize(activation_bits=16) and found.quantize.edge_dtype == "int16"


@pytest.mark.parametrize(
    "values, message",
    [
        ({"quantise": {}}, "the recipe has no option 'quantise'; did you mean 'quantize'?"),
        ({"bass": "int8"}, "the recipe has no option 'bass'; did you mean 'base'?"),
        ({"quantize": {"weigth_bits": 4}}, "quantize has no option 'weigth_bits'; did you mean 'weight_bits'?"),
        ({"prune": {"zzz": 4}}, "prune has no option 'zzz'; its options are sparsity, strength"),
        ({"rules": [{"patern": "x"}]}, "rule 1 has no option 'patern'; did you mean 'pattern'?"),
        ({"rules": [{"pattern": "x"}, {"weight_bits": 4}]}, "rule 2 has no 'pattern'"),
        ({"rules": {"x": 4}}, "rules is {'x': 4}; give a list"),
        ({"rules": ["x"]}, "rule 1 is 'x'; give options by name"),
        ({"quantize": 8}, "quantize is 8; give options by name"),
        ({"quantize": {"weight_bits": 3}}, "weight_bits is 3; choose one of 4, 5"),
        ({"base": "int9"}, "recipe is 'int9'; did you mean 'int8'"),
        ({"generate": None}, "generate is null"),
        ({"equalize": "no"}, "equalize is 'no'; choose one of True, False"),
        ([1], r"the recipe is \[1\]; give options by name"),
    ],
)
def test_a_wrong_option_is_named_with_its_neighbour(values, message, tmp_path):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        Recipe.from_dict(values)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"recipe '{re.escape(str(path))}': "):
        read_recipe(path)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.json", '{"base": "int8",\n}', r"a.json' is no JSON: .* in line 2"),
        ("a.yaml", "base: [int8", r"a.yaml' is no YAML: .* in line"),
        ("a.json", None, r"a.json' cannot be read: No such file"),
        ("a.json", b"\xff\xfe\x00", r"a.json' is no text"),
    ],
)
def test_a_damaged_file_says_where(name, text, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LoadError, match=message):
        read_recipe(tmp_path / name)


def test_yaml_is_optional(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "yaml", None)
    for use in (lambda path: recipe_text(Recipe(), path), read_recipe):
        with pytest.raises(MissingPackageError, match="needs PyYAML: pip install pyyaml, or write the recipe as JSON"):
            (tmp_path / "a.yml").write_text("base: int8")
            use(tmp_path / "a.yml")
    assert read_recipe_of(tmp_path, Recipe()) == Recipe(), "JSON needs nothing"


def read_recipe_of(folder, recipe: Recipe) -> Recipe:
    (folder / "b.json").write_text(recipe_text(recipe, "b.json"))
    return read_recipe(folder / "b.json")


def test_presets_are_no_files():
    assert not any(map(is_recipe_file, PRESETS)) and is_recipe_file("int8.json") and is_recipe_file("a/B.YAML")


def test_the_command_line_writes_and_takes_recipes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "base: int8\ngenerate: {images: 4}\nrules:\n- {pattern: Dense, keep_float: true}\n- {pattern: '*', weight_bits: 4}\n"
    )
    first = ["compress", str(MODEL_PATH), "-o", "a.tflite", "--input_range=0,1", "--recipe=mine.yaml"]
    assert main([*first, "--save_recipe=full.json", "--report=record.json"]) == 0
    printed = capsys.readouterr().out
    assert "wrote full.json" in printed and "kept in float by rule 'Dense'" in printed
    # From the file it wrote, and from the record: the same recipe, the same bytes.
    for name in ("full.json", "record.json"):
        again = ["compress", str(MODEL_PATH), "-o", "b.tflite", "--overwrite", "--quiet", "--input_range=0,1"]
        assert main([*again, f"--recipe={name}"]) == 0
        assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()
    assert main([*first, "--save_recipe=full.json", "--quiet"]) == 1
    assert "exists" in capsys.readouterr().err


def test_a_rule_without_a_layer_is_one_line_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text('{"rules": [{"pattern": "Dens", "weight_bits": 4}]}')
    assert main(["compress", str(MODEL_PATH), "-o", "a.tflite", "--recipe=mine.json"]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: no layer .*'Dens'.*did you mean 'Dense'.*\n", error), error


def test_how_to_do_it_again_knows_rules():
    recipe = RECIPES["rules"]
    text = python_text(recipe, {"model": "a.keras"})
    assert text.startswith("from tfdatafree import compress, Prune, Recipe, Rule\n")
    assert 'Rule("logits"' in text.replace("'", '"')
    assert "--recipe=recipe.json" in command_text(recipe, {})
