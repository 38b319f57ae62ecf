"""The checked arguments of `compress` and `diagnose`."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfdatafree.inputs.given_range import check_input_range
from tfdatafree.limits import require_bool, require_seed
from tfdatafree.model.network import GivenRange
from tfdatafree.recipe.file import find_recipe
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.targets.fit import fit_recipe
from tfdatafree.targets.registry import get_target
from tfdatafree.targets.target import Target
from tfdatafree.tflite.labels import read_labels


@dataclass(frozen=True, kw_only=True)
class Task:
    """The arguments of one call; `compress` explains each.

    Attributes:
        user_recipe: The recipe that the user passed.
        recipe: The same with the options that the target decides.
        input_range: What the user says of the ranges of the inputs; None where all have to be found.
        labels: Names of classes that the file will carry.
        label_file: The file that they come from; None for a list.
    """

    model: keras.Model | str | os.PathLike
    user_recipe: Recipe
    recipe: Recipe
    target: Target
    input_range: GivenRange | None
    input_shape: tuple[int, ...] | None
    representative_data: Any
    seed: int
    unsafe_load: bool
    labels: tuple[str, ...] = ()
    label_file: str | None = None

    @property
    def call(self) -> dict[str, Any]:
        """The arguments besides the recipe that decide the result, as plain values."""
        data = self.representative_data
        return {
            "model": os.path.basename(self.model) if isinstance(self.model, (str, os.PathLike)) else None,
            "input_range": self.input_range,
            "input_shape": self.input_shape,
            "target": self.target.name,
            "seed": self.seed,
            "labels": self.label_file or bool(self.labels),
            "representative_data": os.fspath(data) if isinstance(data, (str, os.PathLike)) else data is not None,
        }


def with_labels(task: Task, labels: Sequence[str] | str | os.PathLike | None) -> Task:
    """The task with the labels of `compress`. Raises as `read_labels`."""
    path = os.fspath(labels) if isinstance(labels, (str, os.PathLike)) else None
    return dataclasses.replace(task, labels=read_labels(labels), label_file=path)


def make_task(
    model: keras.Model | str | os.PathLike,
    recipe: str | os.PathLike | Recipe,
    *,
    input_range: GivenRange | None,
    input_shape: tuple[int, ...] | None,
    representative_data: Any,
    target: str | Target,
    seed: int,
    unsafe_load: bool,
) -> Task:
    """Checks everything that can be checked without the model. Raises ValueError if an option is wrong."""
    require_bool("unsafe_load", unsafe_load)
    profile, user_recipe = get_target(target), find_recipe(recipe)
    return Task(
        model=model,
        user_recipe=user_recipe,
        recipe=fit_recipe(user_recipe, profile),
        target=profile,
        input_range=None if input_range is None else check_input_range(input_range),
        input_shape=input_shape,
        representative_data=representative_data,
        seed=require_seed(seed),
        unsafe_load=unsafe_load,
    )
