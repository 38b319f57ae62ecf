"""The steps of compress() and diagnose(). Each takes the network that the step before returned, and returns the next one."""

import dataclasses

import numpy as np
from absl import logging

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.fold_scales import fold_scales
from tfdatafree.canonical.form import canonical_form
from tfdatafree.export.build import Built
from tfdatafree.export.float_model import float_file
from tfdatafree.export.write import write
from tfdatafree.flow.about import describe, made_with
from tfdatafree.flow.bit_search import Bits, find_bits, require_size
from tfdatafree.flow.joins import mend_joins
from tfdatafree.inputs.check import require_recoverable
from tfdatafree.inputs.given import Inputs, generated_inputs, given_inputs
from tfdatafree.inputs.input_range import find_input_ranges
from tfdatafree.inputs.make import affordable, make_inputs
from tfdatafree.inputs.matched import match_inputs, needs_matching
from tfdatafree.inputs.mismatch import MOST_MEASURED, measure_mismatch
from tfdatafree.limits import require_memory
from tfdatafree.measuring.observe import Observed, observe, tensor_means
from tfdatafree.measuring.tensor_statistics import channel_reaches
from tfdatafree.measuring.walks import normalized_walk
from tfdatafree.model.check import require_channels_last, require_quantizable
from tfdatafree.model.graph import Graph
from tfdatafree.model.load import load
from tfdatafree.model.network import InputRange, Network, Pruning
from tfdatafree.model.rewrite import multiplied
from tfdatafree.model.rule_match import apply_rules
from tfdatafree.preconditioning.level import level_channels
from tfdatafree.preconditioning.precondition import moved_by_caps, moved_results, precondition
from tfdatafree.preconditioning.scale_channels import scale_folded
from tfdatafree.progress import Progress
from tfdatafree.pruning.bearing import Attempts, find_bearable, prune_as_asked, verdict
from tfdatafree.pruning.channels import ChannelPruner
from tfdatafree.pruning.judge import Judge
from tfdatafree.pruning.prune import Pruner
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.quantize import choose_input_ranges, needs_moments, quantize
from tfdatafree.recipe.prune import Prune
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.task import Task
from tfdatafree.tflite.labels import require_labels_fit

# Given inputs may leave the given range by this part of it, unnoticed.
_ROUNDING = 0.01
# Number of generated inputs on which the reach of channels is measured.
_REACH_INPUTS = 4
# Fewest generated inputs on which a pruned network is judged. Nothing else sees them, unless few were matched to statistics.
_JUDGING_INPUTS, _JUDGING_SEED = 128, 800_000
# Tensors of the largest size that are in memory at once: what an operator reads and writes, and a copy.
_LIVE_TENSORS = 3
# The steps in order, and the seconds that each takes on a small classifier.
_SECONDS = {
    "load": 3,
    "match inputs": 200,
    "fold BatchNorm": 1,
    "generate inputs": 1,
    "remove channels": 30,
    "prune": 150,
    "pass inputs through the layers": 20,
    "search bits": 100,
    "round weights, choose ranges": 50,
}
FILE_STEP, FLOAT_FILE_STEP = "export and verify", "export"


def expected_seconds(recipe: Recipe) -> dict[str, float]:
    """The steps up to the decision for `recipe`, and the seconds that each usually takes."""
    channels = recipe.prune is not None and recipe.prune.method == "channel"
    taken = {
        "match inputs": recipe.generate.effort == "best",
        "remove channels": channels,
        "prune": recipe.prune is not None and not channels,
        "pass inputs through the layers": recipe.quantize is not None,
        "search bits": recipe.policy is not None,
        "round weights, choose ranges": recipe.quantize is not None,
    }
    return {step: seconds for step, seconds in _SECONDS.items() if taken.get(step, True)}


def read_network(task: Task, progress: Progress) -> Network:
    """The user's model in its canonical form, checked.

    Raises:
        LoadError, UnsupportedModelError: The model cannot be read or compressed.
        ValueError: The recipe does not fit the model.
    """
    with progress.stage("load"):
        source = Graph.from_keras(load(task.model, unsafe=task.unsafe_load, input_shape=task.input_shape))
        require_channels_last(source)
        if task.recipe.quantize is None or not task.recipe.quantize.split_outputs:
            require_labels_fit(task.labels, [source.specs[tensor].shape for tensor in source.outputs])
        form = canonical_form(source, pooled_slices=task.target.pooled_slices)
        graph = form.graph
        require_quantizable(graph)
        require_memory(
            f"the largest tensors of '{graph.name}' for one input",
            _LIVE_TENSORS * graph.largest_activation(),
            "give a smaller input_shape",
        )
        if task.recipe.recover is not None:
            require_recoverable(graph, task.recipe.recover)
        ranges = find_input_ranges(graph, task.input_range, task.seed)
        graph = _with_statistics_that_hold(graph, ranges, task.recipe)
    network = Network(
        source=source,
        unfolded=graph,
        reference=graph,
        current=graph,
        input_ranges=ranges,
        notes=form.notes,
        about=describe(task, source, ranges),
    )
    return network if task.representative_data is not None else _judged(network, task, progress)


def _with_statistics_that_hold(graph: Graph, ranges: tuple[InputRange, ...], recipe: Recipe) -> Graph:
    """The graph with its BatchNorms; with scales and shifts in their place where inputs cannot have their statistics.

    The file will not see what the user's range excludes. So statistics of such inputs say nothing about its tensors.

    Raises:
        ValueError: The recipe recovers, which needs the statistics.
    """
    excluded = next((range_ for range_ in ranges if range_.too_narrow), None)
    if excluded is None:
        return graph
    if recipe.recover is not None:
        raise ValueError(
            f"recover makes inputs by the statistics of BatchNorms, but {excluded.warning} Or leave recover out."
        )
    return fold(graph).graph


def _judged(network: Network, task: Task, progress: Progress) -> Network:
    """The network with generated inputs that fit its statistics as well as the recipe asks for."""
    graph, ranges, effort = network.unfolded, network.input_ranges, task.recipe.generate.effort
    mismatch = measure_mismatch(graph, make_inputs(graph, MOST_MEASURED, ranges, seed=task.seed))
    if mismatch is not None and needs_matching(mismatch, effort):
        with progress.stage("match inputs"):
            ranges, mismatch = match_inputs(graph, ranges, mismatch, effort, seed=task.seed)
    return dataclasses.replace(network, input_ranges=ranges, mismatch=mismatch)


def precondition_network(network: Network, task: Task, progress: Progress) -> Network:
    """The network after preconditioning as the recipe says, with its BatchNorms folded."""
    with progress.stage("fold BatchNorm"):
        ranges = network.input_ranges
        log = precondition(network.unfolded, task.recipe, ranges, task.seed)
        folded = fold(log.graph)
        reference, notes = fold_scales(folded.graph).graph, {**network.notes, **log.notes}
        if log.inexact:
            inputs = make_inputs(reference, _images(reference, task), ranges, seed=task.seed)
            options = " and ".join(log.inexact)
            notes[network.source.name] = moved_by_caps(network.unfolded, reference, inputs, options)
    return Network(
        source=network.source,
        unfolded=log.graph,
        reference=reference,
        current=reference,
        input_ranges=ranges,
        mismatch=network.mismatch,
        rules=apply_rules(task.recipe.rules, network.source, reference),
        scales=log.scales,
        notes=notes,
        reasons={**folded.kept, **log.kept},
        about=network.about,
    )


def choose_inputs(network: Network, task: Task, progress: Progress) -> Inputs:
    """The inputs that layers are run on: the user's, or else generated ones."""
    with progress.stage("generate inputs"):
        ranges = network.input_ranges
        if task.representative_data is None:
            return generated_inputs(network.reference, _images(network.reference, task), ranges, seed=task.seed)
        inputs = given_inputs(task.representative_data, network.reference, ranges[0].ends)
        names = network.reference.inputs
        for name, array, range_ in zip(names, inputs.arrays, ranges, strict=True):
            _note_scaling(f" for '{name}'" if len(names) > 1 else "", array, range_)
        return inputs


def _note_scaling(which: str, given: np.ndarray, input_range: InputRange) -> None:
    """Tells the user where the inputs given for one input of the model leave the range given for it."""
    low, high = given.min(), given.max()
    spare = _ROUNDING * (input_range.high - input_range.low)
    if input_range.origin == "given" and (low < input_range.low - spare or high > input_range.high + spare):
        logging.warning(
            "representative_data%s reaches from %.4g to %.4g, beyond input_range (%.4g, %.4g); the range is widened. If that "
            "is not meant, scale the data as the model takes them.",
            which,
            low,
            high,
            *input_range.ends,
        )


def prune_network(network: Network, task: Task, inputs: Inputs, progress: Progress) -> Network:
    """The network with zeros in its kernels, or without some of its channels, if the recipe prunes.

    Its results are compared with those before pruning. If they are unlike, a warning is logged at once, with the sparsity that
    the network would bear.
    """
    options = task.recipe.prune
    if options is None:
        return network
    attempts: Attempts
    with progress.stage("remove channels" if options.method == "channel" else "prune"):
        if options.method == "channel":
            attempts = _ChannelAttempts(network, options, inputs, task.seed)
        else:
            means = tensor_means(
                network.unfolded,
                inputs.arrays,
                samples=task.recipe.generate.samples,
                standard=_standard(task.recipe),
                seed=task.seed,
            )
            attempts = Pruner(network, options, means=means, seed=task.seed)
        arrays = _judging_inputs(network, inputs, task)
        judge = Judge(network.reference, arrays)
        compared_on = f"{len(arrays[0])} {'given' if inputs.real else 'generated'} inputs"
        if options.sparsity == "auto":
            pruned = find_bearable(attempts, judge, compared_on)
        else:
            pruned = prune_as_asked(attempts, options.sparsity, judge, compared_on, search=options.is_free)
    if pruned.pruning is not None and (text := verdict(network.source.name, pruned.pruning)):
        logging.warning("%s", text)
    return pruned


def _judging_inputs(network: Network, inputs: Inputs, task: Task) -> list[np.ndarray]:
    """The given inputs; or generated ones, more of them than layers are run on, because a share of a few is coarse."""
    if inputs.real:
        return inputs.arrays
    count = affordable(network.reference, max(_JUDGING_INPUTS, len(inputs.arrays[0])))
    count = min([count, *(len(range_.values) for range_ in network.input_ranges if range_.values is not None)])
    return make_inputs(network.reference, count, network.input_ranges, seed=task.seed + _JUDGING_SEED)


class _ChannelAttempts:
    """`bearing.Attempts` that remove channels."""

    limits = (0.0, 1.0)

    def __init__(self, network: Network, options: Prune, inputs: Inputs, seed: int):
        self._network, self._inputs = network, inputs
        self._prune = ChannelPruner(network.unfolded, options, input_ranges=network.input_ranges, seed=seed)

    def __call__(self, sparsity: float | None, *, roughly: bool = False) -> Network:
        assert sparsity is not None, "a strength is not for channels"
        pruned = self._prune(sparsity)
        folded = fold_scales(fold(pruned.graph).graph).graph
        record = Pruning(method="channel", sparsity=pruned.sparsity, layers=pruned.layers, asked=sparsity)
        network = dataclasses.replace(
            self._network, unfolded=pruned.graph, reference=folded, current=folded, pruning=record
        )
        if roughly:
            return network
        change = moved_results(self._network.reference, folded, self._inputs.arrays)
        return network.logged(notes={"channels removed": change}, reasons=pruned.reasons)


def level_network(network: Network, task: Task, inputs: Inputs) -> Network:
    """The network with leveled channels, if the recipe levels them.

    Pruning compares weights as they are, so it comes before. Ranges and covariances depend on the scales of channels, so they
    are measured after.
    """
    recipe = task.recipe
    wide = recipe.quantize is None or recipe.quantize.activation_bits > 8
    if wide or recipe.equalize or not recipe.level_activations:
        return network
    few = [array[:_REACH_INPUTS] for array in inputs.arrays]
    reaches = channel_reaches(normalized_walk(network.unfolded, few, restore=not inputs.real))
    leveled = level_channels(network.unfolded, network.reference, reaches)
    return dataclasses.replace(
        network,
        unfolded=leveled.graph,
        reference=scale_folded(network.reference, leveled.scales),
        current=scale_folded(network.current, leveled.scales),
        scales=multiplied(network.scales, leveled.scales),
    )


def pass_inputs(network: Network, task: Task, inputs: Inputs, progress: Progress) -> tuple[Network, Observed]:
    """The network with leveled channels, and the statistics of its tensors on `inputs`."""
    with progress.stage("pass inputs through the layers"):
        network = level_network(network, task, inputs)
        observed = observe(
            network.unfolded,
            network.reference,
            inputs.arrays,
            samples=task.recipe.generate.samples,
            standard=_standard(task.recipe),
            moments=needs_moments(task.recipe.quantization),
            real=inputs.real and task.recipe.quantization.range_source == "images",
            seed=task.seed,
        )
    return network, observed


def choose_bits(network: Network, task: Task, observed: Observed, inputs: Inputs, progress: Progress) -> Bits:
    """The bits of the recipe, or those that a search finds if the recipe has a policy."""
    if task.recipe.policy is None:
        return Bits(options=task.recipe.quantization, rules=network.rules, policy=None, replay=task.user_recipe)
    with progress.stage("search bits"):
        return find_bits(network, task.recipe, task.user_recipe, observed, inputs.arrays)


def quantize_network(
    network: Network,
    task: Task,
    bits: Bits,
    observed: Observed,
    inputs: Inputs,
    progress: Progress,
) -> Decision:
    """Integers for every kernel and a range for every tensor, with joined branches of very different ranges mended."""
    network = dataclasses.replace(network, rules=bits.rules, about=made_with(network, bits.replay))
    with progress.stage("round weights, choose ranges"):
        known_ranges = choose_input_ranges(network, observed, bits.options, from_user=not inputs.in_range)
        decision = quantize(
            network,
            observed,
            inputs.arrays,
            bits.options,
            known_ranges=known_ranges,
            target=task.target,
        )
        return mend_joins(decision)


def write_float(network: Network, task: Task, inputs: Inputs, progress: Progress) -> Built:
    """The float file of the network."""
    with progress.stage(FLOAT_FILE_STEP):
        first_input = [array[:1] for array in inputs.arrays]
        about = made_with(network, task.user_recipe)
        content = float_file(network.current, first_input, float16=task.recipe.float16, about=about)
        return Built(content=content, graph=network.current)


def write_integers(decision: Decision, bits: Bits, inputs: Inputs, progress: Progress) -> Built:
    """The verified integer file, or a simulation if no file can hold the network.

    Raises:
        ExportError: The file would not be what was decided.
    """
    with progress.stage(FILE_STEP):
        built = write(decision, inputs.arrays)
        if built.content is not None and bits.policy is not None and bits.options.int4:
            require_size(built.content, bits.policy)
        return built


def _images(graph: Graph, task: Task) -> int:
    return affordable(graph, task.recipe.generate.images)


def _standard(recipe: Recipe) -> bool:
    return recipe.quantize is not None and recipe.quantize.range_source == "standard"
