"""diagnose(): which quantizers of a recipe cost a model most, without data, and what to do about them.

    load -> separate -> fold -> generate inputs -> (prune) -> round weights, choose ranges -> one quantizer at a time -> advice

The stages are those of `compress`, up to the point where a file would be written; the network is simulated.
"""

import dataclasses
import os
import time
from typing import Any

import keras

from tfdatafree.bit_search import search_bits, with_policy
from tfdatafree.damage import Damage, measure_damage
from tfdatafree.diagnosis import Diagnosis, Suspect, advise
from tfdatafree.findings import channel_findings
from tfdatafree.generators.images import make_inputs
from tfdatafree.graph import Graph
from tfdatafree.linear import layout_of
from tfdatafree.placement import has_kernels, operator_layers
from tfdatafree.preparation import inputs_for, level, make_task, means_for, observe_for, prepare, read
from tfdatafree.progress import Progress
from tfdatafree.pruning import Pruned, prune
from tfdatafree.quantization import input_ranges, quantize
from tfdatafree.recipe import Quantize, Recipe
from tfdatafree.rule_targets import apply_rules
from tfdatafree.simulate import simulate
from tfdatafree.targets import Target

# Stages in their order, and what they take of the time of a middling network.
_WORK = {
    "load, fold BatchNorm": 4,
    "generate inputs": 1,
    "prune": 150,
    "pass inputs through the layers": 20,
    "search bits": 100,
    "round weights, choose ranges": 50,
    "one quantizer at a time": 150,
}
# The images that damage is measured on are none of those that ranges come from.
_MEASURING_SEED = 700_000


def diagnose(
    model: "keras.Model | str | os.PathLike",
    recipe: str | Recipe = "int8",
    *,
    input_range: tuple[float, float] | None = None,
    input_shape: tuple[int, ...] | None = None,
    representative_data: Any = None,
    target: str | Target = "generic",
    images: int = 8,
    seed: int = 0,
    unsafe_load: bool = False,
    verbose: int = 1,
) -> Diagnosis:
    """Switches on one quantizer at a time, each layer's weights and each tensor's values, and compares the results.

    It takes about half as many runs of the network on `images` inputs as there are quantizers.

    Args:
        model, recipe, input_range, input_shape, target, seed, unsafe_load: As for `compress`. What is diagnosed is the network
            before `recipe.recover`.
        representative_data: As for `compress`; the first `images` of them are measured on, too.
        images: Inputs to measure on.
        verbose: 0 hides the progress bar.

    Returns:
        A Diagnosis: `.suspects`, the most damaging first; `.rules()`, which help the worst; `print` it.

    Raises:
        LoadError, UnsupportedModelError: As for `compress`.
        ValueError: An option is wrong, or the recipe leaves the model in float or takes channels out of it.
    """
    started = time.perf_counter()
    task = make_task(
        model,
        recipe,
        input_range=input_range,
        input_shape=input_shape,
        representative_data=representative_data,
        target=target,
        seed=seed,
        unsafe_load=unsafe_load,
    )
    recipe = task.recipe
    options = recipe.quantize
    if options is None:
        raise ValueError(
            f"recipe {recipe.name!r} leaves everything in float; diagnose one that quantizes, e.g. 'int8'."
        )
    if recipe.prune is not None and recipe.prune.method == "channel":
        raise ValueError(
            "prune.method is 'channel', which makes another network; save the smaller one and diagnose that."
        )
    if not isinstance(images, int) or isinstance(images, bool) or images < 1:
        raise ValueError(f"images is {images!r}; measure on at least 1.")
    left_out = {"prune": recipe.prune is None, "search bits": recipe.policy is None}
    progress = Progress({stage: work for stage, work in _WORK.items() if not left_out.get(stage)}, verbose)
    try:
        with progress.stage("load, fold BatchNorm"):
            source, trained = read(task)
            prepared = prepare(task, source, trained)
            unfolded, teacher, found, rules = prepared.unfolded, prepared.teacher, prepared.found, prepared.rules
            ends = (found.low, found.high)
        with progress.stage("generate inputs"):
            real = inputs_for(task, prepared)
            inputs = real.arrays
            if representative_data is None:
                measured = make_inputs(teacher, images, ends, seed=seed + _MEASURING_SEED)
            else:
                measured = [array[:images] for array in inputs]
        pruned = Pruned(teacher, {}, "none", {}, {})
        if recipe.prune is not None:
            with progress.stage("prune"):
                fixed = rules.setting("sparsity")
                means = means_for(task, unfolded, inputs)
                pruned = prune(teacher, unfolded, recipe.prune, input_range=ends, means=means, seed=seed, fixed=fixed)
        with progress.stage("pass inputs through the layers"):
            unfolded, teacher, student, _ = level(task, prepared, unfolded, teacher, pruned.graph)
            pruned = dataclasses.replace(pruned, graph=student)
            observed = observe_for(task, unfolded, teacher, inputs)
        if recipe.policy is not None:
            with progress.stage("search bits"):
                policy = search_bits(pruned.graph, pruned.masks, observed, inputs, options, recipe.policy, rules)
                rules = apply_rules(with_policy(recipe, policy, rules, pruned.graph).rules, source, teacher)
        with progress.stage("round weights, choose ranges"):
            given = input_ranges(teacher, found, observed, options, not real.in_range)
            quantized = quantize(pruned.graph, unfolded, pruned.masks, observed, inputs, given, options, rules=rules)
            built = simulate(
                quantized.graph, teacher, quantized.kernels, quantized.ranges, inputs, options, rules=rules
            )
        with progress.stage("one quantizer at a time"):
            bits = {key: kernel.quantizer.bits for key, kernel in quantized.kernels.items()}
            damages, together = measure_damage(teacher, built.graph, bits, built.grids, measured)
    finally:
        progress.close()
    findings = channel_findings(unfolded)
    return Diagnosis(
        model=source.name,
        recipe=recipe.name,
        suspects=_suspects(teacher, damages, options, task.target, findings.caps, real=representative_data is not None),
        error=together.error,
        output_discrepancy=together.output_discrepancy,
        agreement=together.agreement,
        dead=findings.dead,
        caps=findings.caps,
        images=len(measured[0]),
        inputs="generated inputs" if representative_data is None else "of the inputs given",
        seconds=time.perf_counter() - started,
        given=dict(rules.of),
    )


def _suspects(
    graph: Graph, damages: list[Damage], options: Quantize, target: Target, caps: dict[str, str], *, real: bool
) -> tuple[Suspect, ...]:
    total = sum(damage.effect.error**2 for damage in damages)
    layers_of = operator_layers(graph)
    found = []
    for damage in sorted(damages, key=lambda damage: -damage.effect.error):
        layers = () if damage.node is None else layers_of[damage.node]
        weighted = [layer for layer in layers if layout_of(graph.layers[layer])]
        suspect = Suspect(
            kind=damage.kind,
            name=damage.name,
            layer=next(iter([*weighted, *layers[::-1]]), None),
            operation=" + ".join(graph.layers[layer].class_name for layer in layers) or "input",
            bits=damage.bits,
            error=damage.effect.error,
            output_discrepancy=damage.effect.output_discrepancy,
            agreement=damage.effect.agreement,
            part=damage.effect.error**2 / total if total else 0.0,
        )
        found.append(
            advise(
                suspect,
                clipped=damage.clipped,
                spread=damage.spread,
                per_channel=options.per_channel,
                given_out=damage.name in graph.outputs and options.edge_dtype != "float32",
                wide=damage.kind != "weights" and 16 in target.activation_bits and has_kernels(graph, damage.name, 16),
                cap=caps.get(damage.name),
                real=real,
            )
        )
    return tuple(found)
