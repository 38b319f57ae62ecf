"""The stages that `compress` and `diagnose` share: from a model to pruned weights, and on to integer ones and ranges.

    load -> separate -> fold BatchNorm -> generate inputs -> prune                                    pruned_network
    -> level channels, pass inputs on -> search bits -> round weights, correct biases, ranges         quantized_network

The unfolded graph is kept beside the folded one: its BatchNorm statistics are the data.
"""

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.fold_scales import fold_scales
from tfdatafree.flow.bit_search import packed_unless_told, search_bits, with_policy
from tfdatafree.flow.preparation import Prepared, inputs_for, level, means_for, observe_for, prepare
from tfdatafree.inputs.given import Inputs
from tfdatafree.measuring.observe import Observed
from tfdatafree.model.graph import Graph
from tfdatafree.model.rule_match import apply_rules
from tfdatafree.preconditioning.precondition import moved_by_caps, moved_results
from tfdatafree.progress import Progress
from tfdatafree.pruning.channels import Smaller, prune_channels
from tfdatafree.pruning.prune import Pruned, prune
from tfdatafree.quantization.bit_choice import Policy
from tfdatafree.quantization.quantize import Quantized, input_ranges, quantize
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.recipe.rules import LayerRules
from tfdatafree.recovery.recover import require_recoverable
from tfdatafree.task import Task, read

# Stages in their order, and what they take of the time of a middling network.
_WORK = {
    "load": 3,
    "fold BatchNorm": 1,
    "generate inputs": 1,
    "remove channels": 30,
    "prune": 150,
    "pass inputs through the layers": 20,
    "search bits": 100,
    "round weights, choose ranges": 50,
}


def expected_work(recipe: Recipe) -> dict[str, float]:
    """The stages of this module that `recipe` takes, and how long each usually takes."""
    channels = recipe.prune is not None and recipe.prune.method == "channel"
    taken = {
        "remove channels": channels,
        "prune": recipe.prune is not None and not channels,
        "pass inputs through the layers": recipe.quantize is not None,
        "search bits": recipe.policy is not None,
        "round weights, choose ranges": recipe.quantize is not None,
    }
    return {stage: work for stage, work in _WORK.items() if taken.get(stage, True)}


@dataclass(frozen=True, kw_only=True)
class PrunedNetwork:
    """A float network with some of its weights zero, or none.

    Attributes:
        source: The user's model.
        prepared: The same without BatchNorms, and what is known about it.
        real: What the layers are exercised with.
        unfolded, teacher: With the BatchNorms and without, before weights became zero, after channels were removed.
        smaller: What was removed, if channels were.
        kept, notes: What was left alone, and what was done, by layer.
    """

    source: Graph
    prepared: Prepared
    real: Inputs
    unfolded: Graph
    teacher: Graph
    smaller: Smaller | None
    pruned: Pruned
    kept: dict[str, str]
    notes: dict[str, str]

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest value of the inputs."""
        return self.prepared.found.low, self.prepared.found.high


def pruned_network(task: Task, progress: Progress) -> PrunedNetwork:
    """The model, loaded, folded and pruned as the recipe says. Raises as `compress` does."""
    recipe, smaller, zeros = task.recipe, None, task.recipe.prune
    with progress.stage("load"):
        source, original = read(task)
        if recipe.recover is not None:
            require_recoverable(source, original, recipe.recover)
    with progress.stage("fold BatchNorm"):
        prepared = prepare(task, source, original)
        unfolded, teacher = prepared.unfolded, prepared.teacher
        ends, kept, notes = (prepared.found.low, prepared.found.high), prepared.kept, prepared.notes
    with progress.stage("generate inputs"):
        real = inputs_for(task, prepared)
    if prepared.moving:
        notes = notes | {source.name: moved_by_caps(original, teacher, real.arrays, prepared.moving)}
    if zeros is not None and zeros.method == "channel":
        with progress.stage("remove channels"):
            smaller, zeros = prune_channels(unfolded, zeros, input_range=ends, seed=task.seed), None
            whole, unfolded = teacher, smaller.graph
            teacher = fold_scales(fold(unfolded).graph).graph
            notes = notes | {"channels removed": moved_results(whole, teacher, real.arrays)}
        kept = kept | smaller.kept
    pruned = Pruned(teacher, {}, "none", {}, {})
    if zeros is not None:
        with progress.stage("prune"):
            means = means_for(task, unfolded, real.arrays)
            fixed = prepared.rules.setting("sparsity")
            pruned = prune(teacher, unfolded, zeros, input_range=ends, means=means, seed=task.seed, fixed=fixed)
        kept = kept | pruned.kept
    return PrunedNetwork(
        source=source,
        prepared=prepared,
        real=real,
        unfolded=unfolded,
        teacher=teacher,
        smaller=smaller,
        pruned=pruned,
        kept=kept,
        notes=notes,
    )


@dataclass(frozen=True, kw_only=True)
class QuantizedNetwork:
    """A network with integer kernels and a range for each tensor, of which a file can be made.

    Attributes:
        unfolded, teacher: The float network, with the BatchNorms and without.
        observed: What was seen of the tensors without data.
        options, rules: How it was quantized.
        policy, replay: What a search for bits found, if there was one, and the recipe that does the same without it.
        scales: Of all channels that were scaled, as `Prepared` has them.
    """

    unfolded: Graph
    teacher: Graph
    observed: Observed
    options: Quantize
    rules: LayerRules
    policy: Policy | None
    replay: Recipe
    scales: dict[str, np.ndarray]
    quantized: Quantized


def quantized_network(
    task: Task, network: PrunedNetwork, progress: Progress, executor: Executor | None = None
) -> QuantizedNetwork:
    """`network` quantized as the recipe says. Raises as `compress` does."""
    options, rules = task.recipe.quantize, network.prepared.rules
    inputs, masks = network.real.arrays, network.pruned.masks
    with progress.stage("pass inputs through the layers"):
        unfolded, teacher, student, scales = level(
            task, network.prepared, network.unfolded, network.teacher, network.pruned.graph
        )
        observed = observe_for(task, unfolded, teacher, inputs)
    policy, replay = None, task.asked
    if task.recipe.policy is not None:
        options = packed_unless_told(options)
        with progress.stage("search bits"):
            policy = search_bits(student, masks, observed, inputs, options, task.recipe.policy, rules)
            replay = with_policy(task.asked, policy, rules, student, int4=options.int4)
            rules = apply_rules(replay.rules, network.source, teacher)
    with progress.stage("round weights, choose ranges"):
        given = input_ranges(teacher, network.prepared.found, observed, options, not network.real.in_range)
        quantized = quantize(student, unfolded, masks, observed, inputs, given, options, executor, rules)
    return QuantizedNetwork(
        unfolded=unfolded,
        teacher=teacher,
        observed=observed,
        options=options,
        rules=rules,
        policy=policy,
        replay=replay,
        scales=scales,
        quantized=quantized,
    )
