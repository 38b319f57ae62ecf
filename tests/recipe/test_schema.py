"""The schema of recipe files: it takes what the reader takes, and refuses what nobody could mean."""

import dataclasses
import json
import typing

import jsonschema
import pytest

from tfdatafree import PRESETS, Prune, Recipe, Recover, Rule, Search
from tfdatafree.cli import main
from tfdatafree.recipe.schema import recipe_schema

VALIDATOR = jsonschema.Draft202012Validator(recipe_schema())
MOST = Recipe(
    name="most",
    prune=Prune(sparsity="auto", pattern="4x1"),
    policy=Search(size=0.6),
    recover=Recover(images=64),
    rules=(Rule("a*", weight_bits=4, activation_bits=16), Rule("b", keep_float=True, sparsity=0)),
)


def plain(recipe: Recipe) -> dict:
    return json.loads(json.dumps(recipe.to_dict()))


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(recipe_schema())


@pytest.mark.parametrize("recipe", [*PRESETS.values(), MOST], ids=lambda recipe: recipe.name)
def test_it_takes_what_is_written(recipe):
    VALIDATOR.validate(plain(recipe))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"base": "int16x8"},
        {"$schema": "recipe.schema.json", "format_version": 1, "prune": {"sparsity": 0.5}},
        {"quantize": None, "float16": True, "rules": []},
        {"quantize": {"bias_correction": False}, "rules": [{"pattern": "x"}]},
    ],
    ids=str,
)
def test_it_takes_what_the_reader_takes(values):
    VALIDATOR.validate(values)
    Recipe.from_dict(values)


@pytest.mark.parametrize(
    "values",
    [
        {"qantize": {}},
        {"quantize": {"weight_bit": 8}},
        {"quantize": {"weight_bits": "8"}},
        {"quantize": {"rounding": "up"}},
        {"base": "int9"},
        {"format_version": 99},
        {"generate": None},
        {"rules": [{"weight_bits": 4}]},
        {"rules": [{"pattern": "x", "bits": 4}]},
        {"rules": {"pattern": "x"}},
    ],
    ids=str,
)
def test_it_refuses_what_the_reader_refuses(values):
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(values)
    with pytest.raises(ValueError):
        Recipe.from_dict(values)


def test_every_option_is_described():
    schema = recipe_schema()
    owners = {"Recipe": schema, **schema["$defs"]}
    assert {"Quantize", "Prune", "Recover", "Generate", "Search", "Rule"} < owners.keys()
    for name, entry in owners.items():
        assert entry["additionalProperties"] is False
        for option, value in entry["properties"].items():
            assert value.get("description") or option in ("$schema", "format_version"), f"{name}.{option}"
    fields = {field.name for field in dataclasses.fields(Recipe)}
    assert schema["properties"].keys() == fields | {"$schema", "format_version", "base"}
    assert typing.get_type_hints(Recipe).keys() == fields


def test_the_command_line_prints_it(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe_schema()
