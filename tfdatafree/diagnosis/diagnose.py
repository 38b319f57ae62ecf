"""diagnose(): which quantizers of a recipe change the results most, without data, and what helps.

the steps of compress() up to the decision (flow/steps.py) -> simulate one quantizer at a time -> advise
"""

import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

import keras

from tfdatafree.canonical.separate import separate
from tfdatafree.diagnosis.channels import channel_findings
from tfdatafree.diagnosis.diagnosis import Diagnosis, Suspect, advise
from tfdatafree.diagnosis.quantizer_damage import Damage, measure_damage
from tfdatafree.export.simulate import simulate
from tfdatafree.flow.steps import (
    choose_bits,
    choose_inputs,
    expected_seconds,
    pass_inputs,
    precondition_network,
    prune_network,
    quantize_network,
    read_network,
)
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.classes import class_tensors
from tfdatafree.model.decisions import decision_of
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout
from tfdatafree.progress import Progress
from tfdatafree.quantization.placement import Placement, has_kernels
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.targets.target import Target
from tfdatafree.task import make_task

# The step after the decision, and the seconds that it takes on a small classifier.
_STEP, _STEP_SECONDS = "measure single quantizers", 150
# Damage is measured on other images than ranges.
_MEASURING_SEED = 700_000


def diagnose(
    model: "keras.Model | str | os.PathLike",
    recipe: str | os.PathLike | Recipe = "int8",
    *,
    input_range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    input_shape: tuple[int, ...] | None = None,
    representative_data: Any = None,
    target: str | Target = "generic",
    images: int = 8,
    seed: int = 0,
    unsafe_load: bool = False,
    verbose: int = 1,
) -> Diagnosis:
    """Switches on one quantizer at a time, for each layer's weights and each tensor's values, and compares the results.

    With n quantizers, this takes as long as about n / 2 runs of the network on `images` inputs.

    Args:
        model, recipe, input_range, input_shape, target, seed, unsafe_load: As for `compress`. The network is diagnosed before
            `recipe.recover`.
        representative_data: As for `compress`; damage is measured on the first `images` of these inputs.
        images: Number of inputs to measure on.
        verbose: 0 hides the progress bar; 2 shows lines in its place.

    Returns:
        A Diagnosis: `.suspects`, the most damaging first; `.rules()`, which help the worst of them; `print` it.

    Raises:
        LoadError, UnsupportedModelError: As for `compress`.
        ValueError: An option is wrong, or the recipe leaves the model in float or removes channels.
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
            "prune.method is 'channel', which makes another network; save the pruned network and diagnose that."
        )
    if not isinstance(images, int) or isinstance(images, bool) or images < 1:
        raise ValueError(f"images is {images!r}; measure on at least 1.")
    task = dataclasses.replace(task, recipe=dataclasses.replace(recipe, recover=None))
    progress = Progress(expected_seconds(task.recipe) | {_STEP: _STEP_SECONDS}, verbose)
    try:
        network = read_network(task, progress)
        network = precondition_network(network, task, progress)
        inputs = choose_inputs(network, task, progress)
        network = prune_network(network, task, inputs, progress)
        network, observed = pass_inputs(network, task, inputs, progress)
        bits = choose_bits(network, task, observed, inputs, progress)
        decision = quantize_network(network, task, bits, observed, inputs, progress)
        with progress.stage(_STEP):
            if representative_data is None:
                measured = make_inputs(network.reference, images, network.input_ranges, seed=seed + _MEASURING_SEED)
            else:
                measured = [array[:images] for array in inputs.arrays]
            built = simulate(decision, inputs.arrays)
            weight_bits = {key: kernel.grid.bits for key, kernel in decision.kernels.items()}
            reference = decision.reference
            classes = _class_decisions(network.source, reference, decision.tail)
            damages, together = measure_damage(reference, built.graph, weight_bits, built.grids, measured, classes)
    finally:
        progress.close()
    findings = channel_findings(network.unfolded)
    real_inputs = representative_data is not None and not isinstance(representative_data, GeneratedImages)
    return Diagnosis(
        model=network.source.name,
        recipe=recipe.name,
        suspects=_suspects(reference, damages, bits.options, task.target, findings.caps, real_inputs=real_inputs),
        error=together.error,
        output_discrepancy=together.output_discrepancy,
        agreement=together.agreement,
        errors=dict(together.errors),
        dead=findings.dead,
        caps=findings.caps,
        images=len(measured[0]),
        inputs="of the given inputs" if real_inputs else "generated inputs",
        seconds=time.perf_counter() - started,
        given=dict(bits.rules.of),
    )


def _class_decisions(source: Graph, reference: Graph, tail: Graph | None) -> set[str]:
    """The decision tensors of the reference whose largest entry chooses a class.

    Args:
        tail: What joins the reference's outputs to those of `source`; None if they are the same.
    """
    form = separate(source).graph
    outputs = reference.outputs if tail is None else tail.outputs
    classes = class_tensors(form, form.outputs)
    pairs = zip(form.outputs, outputs, strict=True)
    return {decision for tensor, output in pairs if tensor in classes and (decision := decision_of(reference, output))}


def _suspects(
    graph: Graph, damages: list[Damage], options: Quantize, target: Target, caps: dict[str, str], *, real_inputs: bool
) -> tuple[Suspect, ...]:
    total = sum(damage.effect.error**2 for damage in damages)
    layers_of = Placement(graph).operator_layers
    suspects = []
    for damage in sorted(damages, key=lambda damage: -damage.effect.error):
        layers = () if damage.node is None else layers_of[damage.node]
        weighted = [layer for layer in layers if find_layout(graph.layers[layer])]
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
        suspects.append(
            advise(
                suspect,
                clipped=damage.clipped,
                spread=damage.spread,
                per_channel=options.one_step_per_channel(dense=False) or not target.per_channel,
                is_output=damage.name in graph.outputs and options.edge_dtype != "float32",
                has_16_bits=damage.kind != "weights"
                and 16 in target.activation_bits
                and has_kernels(graph, damage.name, 16),
                cap=caps.get(damage.name),
                real_inputs=real_inputs,
            )
        )
    return tuple(suspects)
