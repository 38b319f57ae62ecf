"""The first steps of `compress` and `diagnose`: options checked, the model read and folded, inputs passed through it.

    load -> separate -> precondition -> fold BatchNorm -> inputs (-> prune) -> level channels -> what each layer sees of them

The unfolded graph is kept beside the folded one: its BatchNorm statistics are the data.
"""

from dataclasses import dataclass

import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.fold_scales import fold_scales
from tfdatafree.inputs.given import Inputs, generated_inputs, given_inputs
from tfdatafree.inputs.input_range import InputRange, find_input_range
from tfdatafree.inputs.make import make_inputs
from tfdatafree.measuring.observe import Observed, observe, tensor_means
from tfdatafree.measuring.statistics import channel_reaches
from tfdatafree.measuring.walks import normalized_walk
from tfdatafree.model.graph import Graph
from tfdatafree.model.rule_match import apply_rules
from tfdatafree.preconditioning.level import level_channels
from tfdatafree.preconditioning.precondition import precondition
from tfdatafree.preconditioning.scale_channels import multiplied
from tfdatafree.quantization.quantize import needs_moments
from tfdatafree.recipe.rules import LayerRules
from tfdatafree.task import Task

# Generated inputs on which the reach of channels is seen.
_REACHED = 4


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
    return observe(
        unfolded,
        teacher,
        inputs,
        samples=task.recipe.generate.samples,
        standard=_standard(task),
        moments=needs_moments(task.recipe.quantize),
        seed=task.seed,
    )
