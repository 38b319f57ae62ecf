"""The first steps of `compress` and `diagnose`: options checked, the model read and folded, inputs passed through it.

    load -> separate -> precondition -> fold BatchNorm -> inputs (-> prune) -> level channels -> what each layer sees of them

The unfolded graph is kept beside the folded one: its BatchNorm statistics are the data.
"""

import os
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfdatafree.generators.images import make_inputs, normalized_walk
from tfdatafree.generators.input_range import InputRange, check_input_range, find_input_range
from tfdatafree.generators.observe import Observed, observe, tensor_means
from tfdatafree.generators.representative import Inputs, generated_inputs, given_inputs
from tfdatafree.generators.statistics import channel_reaches
from tfdatafree.graph import Graph
from tfdatafree.load import load
from tfdatafree.preconditioning import precondition, require_quantizable
from tfdatafree.recipe import Recipe, get_recipe
from tfdatafree.rule_targets import apply_rules
from tfdatafree.rules import LayerRules
from tfdatafree.targets import Target, fit_recipe, get_target
from tfdatafree.visitors.fold_batchnorm import fold
from tfdatafree.visitors.fold_scales import fold_scales
from tfdatafree.visitors.global_pooling import globalize_pooling
from tfdatafree.visitors.level import level_channels
from tfdatafree.visitors.merge_twins import merge_twins
from tfdatafree.visitors.pool_slices import pool_slices
from tfdatafree.visitors.scale_channels import multiplied
from tfdatafree.visitors.separate import separate
from tfdatafree.visitors.split_normalization import split_normalization

# Generated inputs on which the reach of channels is seen.
_REACHED = 4


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
    trained = compressible(source, task.target)
    require_quantizable(trained)
    return source, trained


def compressible(source: Graph, target: Target) -> Graph:
    """A model separated into operations that can be compressed, for this target."""
    trained = merge_twins(split_normalization(globalize_pooling(separate(source))))
    return pool_slices(trained) if target.pooled_slices else trained


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model without BatchNorms, and what is known about it.

    Attributes:
        unfolded: The same function with the BatchNorms, and with tensors of the same names.
        teacher: The folded graph.
        found: Range of the inputs.
        notes, kept: What was done, and what was left alone, by layer.
        moving, scales: Options that moved the float function, and scales of channels, as `Preconditioning` says.
    """

    unfolded: Graph
    teacher: Graph
    found: InputRange
    rules: LayerRules
    notes: dict[str, str]
    kept: dict[str, str]
    moving: str
    scales: dict[str, np.ndarray]


def prepare(task: Task, source: Graph, trained: Graph) -> Prepared:
    """`trained`, preconditioned as the recipe says and folded."""
    found = task.input_range or find_input_range(trained, task.seed)
    unfolded, preconditioning = precondition(trained, task.recipe, (found.low, found.high), task.seed)
    teacher, kept = fold(unfolded)
    teacher = fold_scales(teacher)
    return Prepared(
        unfolded=unfolded,
        teacher=teacher,
        found=found,
        rules=apply_rules(task.recipe.rules, source, teacher),
        notes=preconditioning.notes,
        kept=kept | preconditioning.kept,
        moving=preconditioning.moving,
        scales=preconditioning.scales,
    )


def inputs_for(task: Task, prepared: Prepared) -> Inputs:
    """What the layers are exercised with: generated, unless the user gave some."""
    ends = (prepared.found.low, prepared.found.high)
    if task.representative_data is None:
        return generated_inputs(prepared.teacher, task.recipe.generate.images, ends, seed=task.seed)
    return given_inputs(task.representative_data, prepared.teacher, ends)


def means_for(task: Task, unfolded: Graph, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Mean of every channel that a layer reads, by BatchNorm statistics: what pruning asks for before all else."""
    return tensor_means(
        unfolded, inputs, samples=task.recipe.generate.samples, standard=_standard(task), seed=task.seed
    )


def level(
    task: Task, prepared: Prepared, unfolded: Graph, teacher: Graph, student: Graph
) -> tuple[Graph, Graph, Graph, dict[str, np.ndarray]]:
    """(unfolded, teacher, student, scales) with leveled channels, if the recipe has it so; scales of all there were.

    After pruning, which counts weights as they are, and before anything else is seen of the tensors.
    """
    recipe = task.recipe
    if (
        recipe.quantize is None
        or recipe.quantize.activation_bits > 8
        or recipe.equalize
        or not recipe.level_activations
    ):
        return unfolded, teacher, student, prepared.scales
    ends = (prepared.found.low, prepared.found.high)
    seen = make_inputs(unfolded, _REACHED, ends, seed=task.seed)
    reaches = channel_reaches(normalized_walk(unfolded, seen))
    unfolded, (teacher, student), scales = level_channels(unfolded, [teacher, student], reaches)
    return unfolded, teacher, student, multiplied(prepared.scales, scales)


def _standard(task: Task) -> bool:
    return task.recipe.quantize is not None and task.recipe.quantize.range_source == "standard"


def observe_for(task: Task, unfolded: Graph, teacher: Graph, inputs: list[np.ndarray]) -> Observed:
    """What each layer sees, by its BatchNorm statistics and on the inputs."""
    samples = task.recipe.generate.samples
    return observe(unfolded, teacher, inputs, samples=samples, standard=_standard(task), seed=task.seed)
