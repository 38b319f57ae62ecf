"""The steps of compress() and diagnose(): each takes the network as the step before left it and returns the next one."""

import dataclasses
from concurrent.futures import Executor

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.fold_scales import fold_scales
from tfdatafree.canonical.form import compressible
from tfdatafree.export.build import Built
from tfdatafree.export.float_model import float_file
from tfdatafree.export.write import write
from tfdatafree.flow.bit_search import Bits, find_bits, require_size
from tfdatafree.inputs.check import require_recoverable
from tfdatafree.inputs.given import Inputs, generated_inputs, given_inputs
from tfdatafree.inputs.input_range import find_input_range
from tfdatafree.inputs.make import make_inputs
from tfdatafree.measuring.observe import Observed, observe, tensor_means
from tfdatafree.measuring.statistics import channel_reaches
from tfdatafree.measuring.walks import normalized_walk
from tfdatafree.model.check import require_quantizable
from tfdatafree.model.graph import Graph
from tfdatafree.model.load import load
from tfdatafree.model.network import Network, Pruning
from tfdatafree.model.rule_match import apply_rules
from tfdatafree.preconditioning.level import level_channels
from tfdatafree.preconditioning.precondition import moved_by_caps, moved_results, precondition
from tfdatafree.preconditioning.scale_channels import multiplied
from tfdatafree.progress import Progress
from tfdatafree.pruning.channels import prune_channels
from tfdatafree.pruning.prune import prune
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.quantize import input_ranges, quantize
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.task import Task

# Generated inputs on which the reach of channels is seen.
_REACHED = 4
# Steps in their order, and the seconds that each takes on a small classifier.
_SECONDS = {
    "load": 3,
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
    """The steps that lead to a decision under `recipe`, and how long each usually takes."""
    channels = recipe.prune is not None and recipe.prune.method == "channel"
    taken = {
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
        LoadError, UnsupportedModelError: It cannot be read or compressed.
        ValueError: The recipe does not fit the model.
    """
    with progress.stage("load"):
        source = Graph.from_keras(load(task.model, unsafe=task.unsafe_load, input_shape=task.input_shape))
        graph = compressible(source, task.target)
        require_quantizable(graph)
        if task.recipe.recover is not None:
            require_recoverable(source, graph, task.recipe.recover)
        input_range = task.input_range or find_input_range(graph, task.seed)
    return Network(source=source, unfolded=graph, reference=graph, current=graph, input_range=input_range)


def precondition_network(network: Network, task: Task, progress: Progress) -> Network:
    """The network made easier to quantize as the recipe says, and its BatchNorms folded."""
    with progress.stage("fold BatchNorm"):
        ends = network.input_range.ends
        unfolded, done = precondition(network.unfolded, task.recipe, ends, task.seed)
        folded, reasons = fold(unfolded)
        folded = fold_scales(folded)
        notes = dict(done.notes)
        if done.moving:
            seen = make_inputs(folded, task.recipe.generate.images, ends, seed=task.seed)
            notes[network.source.name] = moved_by_caps(network.unfolded, folded, seen, done.moving)
    return Network(
        source=network.source,
        unfolded=unfolded,
        reference=folded,
        current=folded,
        input_range=network.input_range,
        rules=apply_rules(task.recipe.rules, network.source, folded),
        scales=done.scales,
        notes=notes,
        reasons={**reasons, **done.kept},
    )


def choose_inputs(network: Network, task: Task, progress: Progress) -> Inputs:
    """What the layers are exercised with: generated inputs, unless the user gave some."""
    with progress.stage("generate inputs"):
        ends = network.input_range.ends
        if task.representative_data is None:
            return generated_inputs(network.reference, task.recipe.generate.images, ends, seed=task.seed)
        return given_inputs(task.representative_data, network.reference, ends)


def prune_network(network: Network, task: Task, inputs: Inputs, progress: Progress) -> Network:
    """The network with zeros in its kernels, or without some of its channels, if the recipe has it so."""
    options = task.recipe.prune
    if options is None:
        return network
    if options.method == "channel":
        with progress.stage("remove channels"):
            return _without_channels(network, task, inputs)
    with progress.stage("prune"):
        means = tensor_means(
            network.unfolded,
            inputs.arrays,
            samples=task.recipe.generate.samples,
            standard=_standard(task.recipe),
            seed=task.seed,
        )
        return prune(network, options, means=means, seed=task.seed)


def _without_channels(network: Network, task: Task, inputs: Inputs) -> Network:
    smaller = prune_channels(network.unfolded, task.recipe.prune, input_range=network.input_range.ends, seed=task.seed)
    folded = fold_scales(fold(smaller.graph)[0])
    moved = moved_results(network.reference, folded, inputs.arrays)
    pruned = dataclasses.replace(
        network,
        unfolded=smaller.graph,
        reference=folded,
        current=folded,
        pruning=Pruning(method="channel", sparsity=smaller.sparsity, layers=smaller.layers),
    )
    return pruned.logged(notes={"channels removed": moved}, reasons=smaller.reasons)


def level_network(network: Network, task: Task) -> Network:
    """The network with leveled channels, if the recipe has it so.

    After pruning, which counts weights as they are, and before anything else is seen of the tensors.
    """
    recipe = task.recipe
    wide = recipe.quantize is None or recipe.quantize.activation_bits > 8
    if wide or recipe.equalize or not recipe.level_activations:
        return network
    seen = make_inputs(network.unfolded, _REACHED, network.input_range.ends, seed=task.seed)
    reaches = channel_reaches(normalized_walk(network.unfolded, seen))
    unfolded, (reference, current), scales = level_channels(
        network.unfolded, [network.reference, network.current], reaches
    )
    return dataclasses.replace(
        network,
        unfolded=unfolded,
        reference=reference,
        current=current,
        scales=multiplied(network.scales, scales),
    )


def pass_inputs(network: Network, task: Task, inputs: Inputs, progress: Progress) -> tuple[Network, Observed]:
    """The network with its channels leveled, and what each of its layers sees."""
    with progress.stage("pass inputs through the layers"):
        network = level_network(network, task)
        observed = observe(
            network.unfolded,
            network.reference,
            inputs.arrays,
            samples=task.recipe.generate.samples,
            standard=_standard(task.recipe),
            seed=task.seed,
        )
    return network, observed


def choose_bits(network: Network, task: Task, observed: Observed, inputs: Inputs, progress: Progress) -> Bits:
    """The bits that the recipe says or, where it has a policy, those that a search finds."""
    if task.recipe.policy is None:
        return Bits(options=task.recipe.quantize, rules=network.rules, policy=None, replay=task.asked)
    with progress.stage("search bits"):
        return find_bits(network, task.recipe, task.asked, observed, inputs.arrays)


def quantize_network(
    network: Network,
    task: Task,
    bits: Bits,
    observed: Observed,
    inputs: Inputs,
    progress: Progress,
    executor: Executor | None = None,
) -> Decision:
    """Integers for every kernel and a range for every tensor."""
    network = dataclasses.replace(network, rules=bits.rules)
    with progress.stage("round weights, choose ranges"):
        given = input_ranges(network, observed, bits.options, from_user=not inputs.in_range)
        return quantize(
            network, observed, inputs.arrays, bits.options, given=given, target=task.target, executor=executor
        )


def write_float(network: Network, task: Task, inputs: Inputs, progress: Progress) -> Built:
    """The float file of the network."""
    with progress.stage(FLOAT_FILE_STEP):
        one = [array[:1] for array in inputs.arrays]
        return Built(content=float_file(network.current, one, float16=task.recipe.float16), graph=network.current)


def write_integers(decision: Decision, bits: Bits, inputs: Inputs, progress: Progress) -> Built:
    """The verified integer file, or its simulation where the recipe says so.

    Raises:
        ExportError: The file would not be what was decided.
    """
    with progress.stage(FILE_STEP):
        built = write(decision, inputs.arrays)
        if bits.policy is not None and bits.options.int4:
            require_size(built.content, bits.policy)
        return built


def _standard(recipe: Recipe) -> bool:
    return recipe.quantize is not None and recipe.quantize.range_source == "standard"
