"""What is to be done to which model: the arguments of `compress` and `diagnose`, checked."""

import os
from dataclasses import dataclass
from typing import Any

import keras

from tfdatafree.canonical.form import canonical_form
from tfdatafree.inputs.input_range import InputRange, check_input_range
from tfdatafree.model.check import require_quantizable
from tfdatafree.model.graph import Graph
from tfdatafree.model.load import load
from tfdatafree.recipe.recipe import Recipe, get_recipe
from tfdatafree.targets.fit import fit_recipe
from tfdatafree.targets.registry import get_target
from tfdatafree.targets.target import Target


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be done, to which model; `compress` explains each.

    Attributes:
        asked: The recipe as it was given.
        recipe: The same, with what the target decides.
        input_range: None where it is to be found.
    """

    model: keras.Model | str | os.PathLike
    asked: Recipe
    recipe: Recipe
    target: Target
    input_range: InputRange | None
    input_shape: tuple[int, ...] | None
    representative_data: Any
    seed: int
    unsafe_load: bool

    @property
    def call(self) -> dict[str, Any]:
        """The arguments that decide the result besides the recipe, as plain values."""
        given, data = self.input_range, self.representative_data
        return {
            "model": os.path.basename(self.model) if isinstance(self.model, (str, os.PathLike)) else None,
            "input_range": None if given is None else (given.low, given.high),
            "input_shape": self.input_shape,
            "target": self.target.name,
            "seed": self.seed,
            "representative_data": os.fspath(data) if isinstance(data, (str, os.PathLike)) else data is not None,
        }


def make_task(
    model: keras.Model | str | os.PathLike,
    recipe: str | Recipe,
    *,
    input_range: tuple[float, float] | None,
    input_shape: tuple[int, ...] | None,
    representative_data: Any,
    target: str | Target,
    seed: int,
    unsafe_load: bool,
) -> Task:
    """The task, checked as far as that goes without the model. Raises ValueError where an option is wrong."""
    profile, asked = get_target(target), get_recipe(recipe)
    return Task(
        model=model,
        asked=asked,
        recipe=fit_recipe(asked, profile),
        target=profile,
        input_range=None if input_range is None else check_input_range(input_range),
        input_shape=input_shape,
        representative_data=representative_data,
        seed=seed,
        unsafe_load=unsafe_load,
    )


def read(task: Task) -> tuple[Graph, Graph]:
    """(the user's model, the same separated into operations that can be compressed)."""
    source = Graph.from_keras(load(task.model, unsafe=task.unsafe_load, input_shape=task.input_shape))
    trained = canonical_form(source, task.target).graph
    require_quantizable(trained)
    return source, trained
