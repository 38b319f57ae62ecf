"""Recipes as files: JSON, or YAML where PyYAML is installed.

    {"base": "int8", "quantize": {"weight_bits": 6}, "rules": [{"pattern": "logits", "keep_float": true}]}

A file holds what `Recipe.to_dict` gives, its format version included, and `Recipe.from_dict` reads it, so that
read(write(recipe)) == recipe. A file without a version is read as version 1.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfdatafree.errors import LoadError, MissingPackageError
from tfdatafree.limits import MOST_TEXT, require_plain, require_regular
from tfdatafree.recipe.recipe import Recipe, get_recipe

ENDINGS = (".json", ".yaml", ".yml")


def is_recipe_file(text: str) -> bool:
    """Whether `text` is the path of a recipe file and not the name of a preset."""
    return Path(text).suffix.lower() in ENDINGS


def find_recipe(recipe: str | os.PathLike | Recipe) -> Recipe:
    """The preset of that name, the recipe in that file, or the Recipe itself.

    Raises:
        LoadError, MissingPackageError: As `read_recipe`.
        ValueError: No preset has this name, or the file names a wrong option.
    """
    if isinstance(recipe, os.PathLike) or (isinstance(recipe, str) and is_recipe_file(recipe)):
        return read_recipe(recipe)
    return get_recipe(recipe)


def recipe_text(recipe: Recipe, path: str | os.PathLike) -> str:
    """The content of the file `path` for this recipe: every option, so that changed defaults do not change the recipe.

    Raises:
        MissingPackageError: The ending asks for YAML, and PyYAML is not installed.
        ValueError: The ending is not one of `ENDINGS`.
    """
    if _is_yaml(path):
        return _yaml(path).safe_dump(recipe.to_dict(), sort_keys=False)
    return json.dumps(recipe.to_dict(), indent=2) + "\n"


def read_recipe(path: str | os.PathLike) -> Recipe:
    """The recipe in a file that `--save_recipe` or a person wrote, or in the JSON record of a compression.

    If the recipe of a record searched for bits, the result is the recipe that repeats what the search found.

    Raises:
        LoadError: The file is missing, or its content is not JSON or YAML.
        MissingPackageError: The file is YAML, and PyYAML is not installed.
        ValueError: An option is unknown or wrong, or the format is newer than this tfdatafree; names it and the file.
    """
    parse = _parse_yaml if _is_yaml(path) else _parse_json
    try:
        if require_regular(path, "recipe ") > MOST_TEXT:
            raise LoadError(f"recipe '{path}' is larger than {MOST_TEXT // 2**20} MB; give a recipe file.")
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LoadError(f"recipe '{path}' is not a text file; give a .json or .yaml file.") from error
    except OSError as error:
        raise LoadError(f"recipe '{path}' cannot be read: {error.strerror}.") from error
    values = parse(path, text)
    require_plain(values, f"recipe '{path}'")
    if isinstance(values, Mapping) and {"recipe", "report"} <= values.keys() <= {"recipe", "report", "replay"}:
        values = values.get("replay", values["recipe"])
    try:
        return Recipe.from_dict(values)
    except ValueError as error:
        raise ValueError(f"recipe '{path}': {error}") from error


def _is_yaml(path: str | os.PathLike) -> bool:
    suffix = Path(path).suffix.lower()
    if suffix not in ENDINGS:
        raise ValueError(f"recipe file is '{path}'; give a name that ends in {', '.join(ENDINGS)}.")
    return suffix != ".json"


def _parse_json(path: str | os.PathLike, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise LoadError(f"recipe '{path}' is not JSON: {error.msg} in line {error.lineno}.") from error
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise LoadError(f"recipe '{path}' nests too deep, or holds a number of too many digits.") from error


def _parse_yaml(path: str | os.PathLike, text: str) -> Any:
    yaml = _yaml(path)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = "" if where is None else f" in line {where.line + 1}"
        raise LoadError(f"recipe '{path}' is not YAML: {getattr(error, 'problem', None) or error}{line}.") from error
    except (RecursionError, ValueError) as error:
        raise LoadError(f"recipe '{path}' nests too deep, or holds a value that cannot be read.") from error


def _yaml(path: str | os.PathLike):
    try:
        import yaml
    except ImportError as error:
        raise MissingPackageError(
            f"'{path}' is YAML, which needs PyYAML: pip install pyyaml, or write the recipe as JSON."
        ) from error
    return yaml
