"""Writes a recipe as the Python code and the command that carry it out."""

import dataclasses
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from tfdatafree.recipe.recipe import PRESETS, Recipe

RECIPE_FILE = "recipe.json"
# What a report calls a recovery -> its function, and what that takes after the teacher.
_RECOVERIES = {
    "feature regression": ("feature_regression", ", images"),
    "distillation": ("distill", ""),
    "reconstruction": ("reconstruct", ", images"),
}
# Arguments that are paths, or else values that only the user has: variable and its comment.
_IN_MEMORY = {
    "representative_data": ("inputs", "inputs: the same representative inputs"),
    "labels": ("labels", "labels: the same names of classes"),
}


def python_text(recipe: Recipe, call: Mapping[str, Any]) -> str:
    """A program that compresses the same model in the same way. `call` has the arguments of `compress` as plain values."""
    by_name = is_preset(recipe)
    names = ["compress"] if by_name else sorted({"Recipe", "compress", *_classes(recipe)}, key=str.lower)
    lines = [""]
    arguments = [repr(call["model"]) if call.get("model") else "model", repr(recipe.name) if by_name else "recipe"]
    if not by_name:
        lines += [f"recipe = {_expression(recipe)}"]
    arguments += [f"{name}={value!r}" for name, value in _options(call).items()]
    arguments += [f"{name}={variable}" for name, (variable, _) in _IN_MEMORY.items() if call.get(name) is True]
    lines += [f"compressed = compress({', '.join(arguments)})"]
    if call.get("recovered"):
        function, images = _RECOVERIES[call["recovered"]]
        names = sorted({*names, function}, key=str.lower)
        lines += [f"recovered = {function}(compressed, teacher{images})  # and the same other arguments"]
        lines += ['recovered.compressed.save("model.tflite")']
    else:
        lines += ['compressed.save("model.tflite")']
    if not call.get("model"):
        lines.insert(0, "# model: the same Keras model, or its path")
    for name, (_, meaning) in _IN_MEMORY.items():
        if call.get(name) is True:
            lines.insert(0, f"# {meaning}")
    return "\n".join([f"from tfdatafree import {', '.join(names)}", *lines])


def command_text(recipe: Recipe, call: Mapping[str, Any]) -> str | None:
    """The command that does the same; None if the command line cannot do it.

    A recipe that is not a preset is read from the file `RECIPE_FILE`, which holds `recipe.to_dict()`.
    """
    if any(call.get(name) is True for name in _IN_MEMORY) or call.get("recovered"):
        return None
    words = ["tfdatafree", "compress", call.get("model") or "model.keras", "-o", "model.tflite"]
    words += [f"--recipe={recipe.name if is_preset(recipe) else RECIPE_FILE}"]
    for name, value in _options(call).items():
        if isinstance(value, Mapping):
            words += [f"--{name}={key}:{_listed(part)}" for key, part in value.items()]
        else:
            words.append(f"--{name}={_listed(value) if isinstance(value, (list, tuple)) else value}")
    return shlex.join(words)


def _listed(numbers: Iterable[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def is_preset(recipe: Recipe) -> bool:
    return PRESETS.get(recipe.name) == recipe


def _options(call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are not the default."""
    defaults = {"input_range": None, "input_shape": None, "target": "generic", "seed": 0}
    options = {name: call[name] for name, default in defaults.items() if call.get(name, default) != default}
    return options | {name: call[name] for name in _IN_MEMORY if isinstance(call.get(name), str)}


def _classes(options: Any) -> set[str]:
    """Names of the option classes that `_expression` mentions."""
    names = {type(options).__name__}
    for _, value in _changed(options):
        for part in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(part):
                names |= _classes(part)
    return names


def _changed(options: Any) -> list[tuple[str, Any]]:
    """Fields that differ from their defaults, and those without a default."""
    return [
        (field.name, getattr(options, field.name))
        for field in dataclasses.fields(options)
        if field.init and getattr(options, field.name) != field.default
    ]


def _expression(options: Any) -> str:
    """Python that builds `options`."""
    if isinstance(options, tuple):
        return f"({', '.join(map(_expression, options))}{',' if len(options) == 1 else ''})"
    if not dataclasses.is_dataclass(options):
        return repr(options)
    by_position = {field.name for field in dataclasses.fields(options) if not field.kw_only}
    parts = [
        _expression(value) if name in by_position else f"{name}={_expression(value)}"
        for name, value in _changed(options)
    ]
    return f"{type(options).__name__}({', '.join(parts)})"
