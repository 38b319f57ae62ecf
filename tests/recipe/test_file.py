"""Recipes as plain values and as files: what is written is read, and what is wrong is named."""

import dataclasses
import json
import os
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from progress_bar import without_progress

import tfdatafree
from tfdatafree import PRESETS, Generate, LoadError, MissingPackageError, Prune, Quantize, Recipe, Recover, Rule, Search
from tfdatafree.cli import main
from tfdatafree.demo import MODEL_PATH
from tfdatafree.recipe.file import is_recipe_file, read_recipe, recipe_text
from tfdatafree.report.reproduce import command_text, python_text

RULES = (Rule("block_*", weight_bits=4, activation_bits=16), Rule("logits", keep_float=True), Rule("stem"))
RECIPES = {
    **PRESETS,
    "rules": Recipe(name="mine", prune=Prune(sparsity=0.5), rules=(*RULES, Rule("Dense", sparsity=0))),
    "pattern": Recipe(prune=Prune(pattern="2:4", depthwise=True), generate=Generate(images=3)),
    "found sparsity": Recipe(prune=Prune(sparsity="auto", pattern="4x1")),
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


# As tfdatafree wrote it before recipes had a format version.
UNVERSIONED = """
{"name": "mine", "quantize": {"weight_bits": 4, "int4": true, "activation_bits": 8, "per_channel": true,
 "dense_per_channel": null, "symmetric_weights": true, "weight_ranges": "max", "rounding": "feedback",
 "equalized_rounding": false, "ranges": "min_max", "range_source": "images", "bias_correction": "analytic",
 "activation_correction": false, "edge_dtype": "uint8"}, "policy": null, "prune": {"sparsity": 0.5, "strength": null,
 "method": "obs", "pattern": "2:4", "multiple": 1, "correct": true, "refit": null, "restore": true, "inputs": "normalized",
 "activations": true, "images": 256, "depthwise": false}, "recover": {"images": 64, "image_size": null, "steps": 0},
 "float16": false, "equalize": false, "equalize_power": 1.0, "equalize_caps": "keep", "scale_outliers": false,
 "level_activations": true, "absorb_bias": false, "generate": {"images": 32, "samples": 2000},
 "rules": [{"pattern": "Dense", "keep_float": true}]}
"""


def test_a_file_without_a_version_reads_as_it_always_did(tmp_path):
    (tmp_path / "old.json").write_text(UNVERSIONED)
    assert read_recipe(tmp_path / "old.json") == Recipe(
        name="mine",
        quantize=Quantize(weight_bits=4, int4=True, per_channel=True, ranges="min_max", edge_dtype="uint8"),
        prune=Prune(pattern="2:4", method="obs"),
        recover=Recover(images=64),
        rules=(Rule("Dense", keep_float=True),),
    )
    assert Recipe.from_dict({**json.loads(UNVERSIONED), "format_version": 1}) == read_recipe(tmp_path / "old.json")


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_file_tells_the_version_of_its_format(ending):
    text = recipe_text(PRESETS["int8"], f"a.{ending}")
    assert re.match(r'\{?\s*"?format_version"?: 1\b', text), "a reader meets the version first"


@pytest.mark.slow
def test_a_record_tells_the_version_of_its_recipes(tmp_path):
    compressed = tfdatafree.compress(MODEL_PATH, Recipe(policy=Search(size=0.9)), input_range=(0, 1), verbose=0)
    record = json.loads(compressed.save(tmp_path / "record.json").read_text())
    assert [record[part]["format_version"] for part in ("recipe", "replay")] == [1, 1]


def test_a_newer_format_is_refused_before_anything_in_it_is_judged(tmp_path):
    values = {"format_version": 2, "base": "int2", "quantise": {}}
    message = (
        rf"format_version is 2, but tfdatafree {tfdatafree.__version__} reads versions up to 1; install the tfdatafree"
    )
    with pytest.raises(ValueError, match=f"^{message}"):
        Recipe.from_dict(values)
    (tmp_path / "new.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"^recipe '.*new.json': {message}"):
        read_recipe(tmp_path / "new.json")


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None])
def test_a_version_is_a_whole_number(version):
    with pytest.raises(
        ValueError, match=rf"format_version is {version!r}; give a whole number of at least 1, or leave it out"
    ):
        Recipe.from_dict({"format_version": version})


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
        ({"format_verson": 1}, "the recipe has no option 'format_verson'; did you mean 'format_version'?"),
        ({"quantize": {"weigth_bits": 4}}, "quantize has no option 'weigth_bits'; did you mean 'weight_bits'?"),
        ({"prune": {"zzz": 4}}, "prune has no option 'zzz'; its options are sparsity, method"),
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
        ("a.json", '{"base": "int8",\n"name" 3}', r"a.json' is not JSON: .* in line 2"),
        ("a.yaml", "base: [int8", r"a.yaml' is not YAML: .* in line"),
        ("a.json", None, r"a.json' cannot be read: No such file"),
        ("a.json", b"\xff\xfe\x00", r"a.json' is not a text file"),
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_rule_without_a_layer_is_one_line_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text('{"rules": [{"pattern": "Dens", "weight_bits": 4}]}')
    assert main(["compress", str(MODEL_PATH), "-o", "a.tflite", "--recipe=mine.json"]) in (1, 2)
    error = without_progress(capsys.readouterr().err)
    assert re.fullmatch(r"error: no layer .*'Dens'.*did you mean 'Dense'.*\n", error), error


def test_how_to_do_it_again_knows_rules():
    recipe = RECIPES["rules"]
    text = python_text(recipe, {"model": "a.keras"})
    assert text.startswith("from tfdatafree import compress, Prune, Recipe, Rule\n")
    assert 'Rule("logits"' in text.replace("'", '"')
    assert "--recipe=recipe.json" in command_text(recipe, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"base": ["int8"]}', r"recipe is \['int8'\]; .*choose one of"),
        ('{"policy": {}}', "policy lacks size"),
        ('{"generate": {"images": true}}', "images is True; give a whole number"),
        ('{"prune": {"sparsity": 0.5, "images": true}}', "images is True; give a whole number"),
        ('{"name": 3}', "name is 3; give a text"),
        ('{"prune": "obs"}', "prune is 'obs'; give options by name"),
        ('{"base": "in\\u001b[2Jt8"}', r"recipe is 'in\\x1b\[2Jt8'"),
        ("[" * 100_000 + "]" * 100_000, "nests too deep"),
        ("[" * 500 + "]" * 500, "nests deeper than 100 levels"),
        ('{"prune": {"sparsity": 0.5, "images": ' + "9" * 5000 + "}}", "too many digits"),
    ],
    ids=lambda text: text[:30],
)
def test_broken_recipes_give_one_short_line(text, said, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises((LoadError, ValueError), match=said) as caught:
        read_recipe(path)
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


def test_only_regular_files_are_read_as_recipes(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(2**33)
    for name, said in (("pipe", "a pipe, a socket or a device"), ("endless", "device"), ("large", "larger than 16 MB")):
        with pytest.raises(LoadError, match=said):
            read_recipe(tmp_path / f"{name}.json")


def test_yaml_that_multiplies_itself_is_refused_in_time(tmp_path):
    yaml = pytest.importorskip("yaml")
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{b}: &{b} [{','.join(['*' + a] * 9)}]" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)]
    assert set(yaml.safe_load("\n".join(lines))) == set("abcdefghijk"), "PyYAML itself reads it"
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(LoadError, match="holds more than"):
        read_recipe(tmp_path / "bomb.yaml")


def test_a_recipe_takes_options_only_as_their_own_types():
    for wrong in ({"prune": "obs"}, {"quantize": {}}, {"policy": 0.5}, {"generate": None}, {"recover": True}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} is .*; give its options as a"):
            Recipe(**wrong)
