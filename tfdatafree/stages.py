"""Stages of a compression as functions of their own: prune(), quantize() and export_tflite().

Each calls `compress` with a part of a recipe, or returns a part of its result:

prune(model, 0.5)              == compress(model, Recipe(quantize=None, prune=Prune(sparsity=0.5))).model
quantize(model)                == compress(model).model
export_tflite(model, path)     == compress(model).save(path)
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import keras

from tfdatafree.compress import compress
from tfdatafree.errors import ExportError
from tfdatafree.files import require_writable_name
from tfdatafree.recipe.file import find_recipe
from tfdatafree.recipe.pattern import parse_pattern
from tfdatafree.recipe.prune import Prune, PruneMethod
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.targets.target import Target

_SPARSITY = 0.5


def prune(
    model: "keras.Model | str | os.PathLike",
    sparsity: float | Literal["auto"] | None = None,
    *,
    method: PruneMethod = "auto",
    pattern: str | None = None,
    input_range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    input_shape: tuple[int, ...] | None = None,
    representative_data: Any = None,
    seed: int = 0,
    unsafe_load: bool = False,
    verbose: int = 1,
) -> keras.Model:
    """Makes weights of a model zero, without data. The model itself is not changed.

    Args:
        model, input_range, input_shape, representative_data, seed, unsafe_load, verbose: As for `compress`.
        sparsity: Part of the convolution and dense weights that becomes zero, in [0, 1), or "auto", as for `Prune`. None: the
            part that `pattern` gives, else 0.5.
        method, pattern: As for `Prune`.

    Returns:
        A plain Keras model in float, with BatchNorms folded. Its zeros stay zero when it is quantized.

    Raises:
        LoadError, UnsupportedModelError: As for `compress`.
        ValueError: An option is wrong.
    """
    if sparsity is None and (pattern is None or parse_pattern(pattern).sparsity is None):
        sparsity = _SPARSITY
    return compress(
        model,
        Recipe(quantize=None, prune=Prune(sparsity=sparsity, method=method, pattern=pattern)),
        input_range=input_range,
        input_shape=input_shape,
        representative_data=representative_data,
        seed=seed,
        unsafe_load=unsafe_load,
        verbose=verbose,
    ).model


def quantize(
    model: "keras.Model | str | os.PathLike",
    recipe: str | os.PathLike | Recipe = "int8",
    *,
    input_range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    input_shape: tuple[int, ...] | None = None,
    representative_data: Any = None,
    target: str | Target = "generic",
    seed: int = 0,
    unsafe_load: bool = False,
    verbose: int = 1,
) -> keras.Model:
    """Quantizes a model without data. The model itself is not changed.

    Args:
        model, input_range, input_shape, representative_data, target: As for `compress`.
        recipe: As for `compress`, but one that quantizes.
        seed, unsafe_load, verbose: As for `compress`.

    Returns:
        The Keras model that simulates the arithmetic of the integer file. `predict` and `save` work on it.

    Raises:
        LoadError, UnsupportedModelError, ExportError: As for `compress`.
        ValueError: An option is wrong, or the recipe leaves the model in float.
    """
    recipe = find_recipe(recipe)
    if recipe.quantize is None:
        raise ValueError(
            f"recipe {recipe.name!r} leaves everything in float; choose one that quantizes, e.g. 'int8', or call compress."
        )
    return compress(
        model,
        recipe,
        input_range=input_range,
        input_shape=input_shape,
        representative_data=representative_data,
        target=target,
        seed=seed,
        unsafe_load=unsafe_load,
        verbose=verbose,
    ).model


def export_tflite(
    model: "keras.Model | str | os.PathLike",
    path: str | os.PathLike,
    recipe: str | os.PathLike | Recipe = "int8",
    *,
    input_range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    input_shape: tuple[int, ...] | None = None,
    representative_data: Any = None,
    target: str | Target = "generic",
    seed: int = 0,
    unsafe_load: bool = False,
    overwrite: bool = False,
    verbose: int = 1,
) -> Path:
    """Writes the TFLite file of a model: `compress` and `save` in one call. The model itself is not changed.

    Args:
        model, recipe, input_range, input_shape, representative_data, target: As for `compress`.
        path: Name of the file, which ends in .tflite.
        seed, unsafe_load, verbose: As for `compress`.
        overwrite: Replace the file if it exists.

    Returns:
        The path.

    Raises:
        LoadError, UnsupportedModelError: As for `compress`.
        ExportError: As for `compress`; or there is no file for this recipe, which is simulated only.
        FileExistsError: `path` exists and `overwrite` is False.
        ValueError: An option is wrong.
    """
    path, recipe = Path(path), find_recipe(recipe)
    require_writable_name(path)
    if path.suffix != ".tflite":
        raise ValueError(f"path is '{path}'; give a name that ends in .tflite.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it.")
    if recipe.quantize is not None and recipe.quantize.simulated:
        raise ExportError(
            f"there is no integer file: {recipe.quantize.simulated}. Call quantize for the model that simulates it, or "
            "choose a recipe with activation_bits=8 or 16 and symmetric_weights=True."
        )
    return compress(
        model,
        recipe,
        input_range=input_range,
        input_shape=input_shape,
        representative_data=representative_data,
        target=target,
        seed=seed,
        unsafe_load=unsafe_load,
        verbose=verbose,
    ).save(path, overwrite=overwrite)
