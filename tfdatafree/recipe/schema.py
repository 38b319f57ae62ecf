"""The JSON schema of recipe files, made from the options' types and docstrings. Editors complete and check files with it.

It accepts what `Recipe.from_dict` reads, and refuses unknown options, values of a wrong type and unknown choices. What depends on
several options, or on a range of numbers, only the reader checks.
"""

import dataclasses
import inspect
import re
import types
import typing
from typing import Any

from tfdatafree.recipe.parse import FIRST_FORMAT_VERSION, FORMAT_VERSION
from tfdatafree.recipe.recipe import PRESETS, Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def recipe_schema() -> dict[str, Any]:
    """The schema as plain values."""
    definitions: dict[str, Any] = {}
    schema = _options(Recipe, definitions)
    schema["properties"] = {
        "$schema": {"type": "string"},
        "format_version": {"type": "integer", "minimum": FIRST_FORMAT_VERSION, "maximum": FORMAT_VERSION},
        "base": {"enum": list(PRESETS), "description": "The preset whose options hold where the file gives none."},
        **schema["properties"],
    }
    return {"$schema": DIALECT, "title": "Recipe of tfdatafree", **schema, "$defs": definitions}


def _options(owner: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of the options of a dataclass; those of others within it go to `definitions`."""
    hints, told = typing.get_type_hints(owner), _descriptions(owner)
    properties = {}
    for field in dataclasses.fields(owner):
        described = {"description": told[field.name]} if field.name in told else {}
        properties[field.name] = {**_type(hints[field.name], definitions), **described}
    needed = [
        field.name
        for field in dataclasses.fields(owner)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    required = {"required": needed} if needed else {}
    return {"type": "object", "properties": properties, **required, "additionalProperties": False}


def _type(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(part, definitions) for part in parts]}
    if origin is typing.Literal:
        return {"enum": list(parts)}
    if origin is tuple:
        return {"type": "array", "items": _type(parts[0], definitions)}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = _options(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return {"type": _TYPES[hint]}


def _descriptions(owner: type) -> dict[str, str]:
    """Option -> what the docstring says of it; what says something of several options stands at each."""
    attributes = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    for names, text in re.findall(r"^    ([\w, ]+): (.*(?:\n     +.*)*)", attributes, re.MULTILINE):
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found
