"""compress(): a trained Keras model in, a verified integer TFLite file out, without data.

    read -> precondition, fold -> inputs -> prune -> observe -> bits -> quantize -> write -> report (-> recover)

The steps are in flow/steps.py.
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from absl import logging

from tfdatafree.compressed import Compressed
from tfdatafree.export.build import Built
from tfdatafree.flow.about import with_found_sparsity
from tfdatafree.flow.bit_search import Bits
from tfdatafree.flow.joins import uneven_warnings
from tfdatafree.flow.steps import (
    FILE_STEP,
    FLOAT_FILE_STEP,
    choose_bits,
    choose_inputs,
    expected_seconds,
    pass_inputs,
    precondition_network,
    prune_network,
    quantize_network,
    read_network,
    write_float,
    write_integers,
)
from tfdatafree.inputs.given import Inputs
from tfdatafree.inputs.probes import Probes
from tfdatafree.limits import require_bool
from tfdatafree.measuring.observe import Observed
from tfdatafree.model.network import Network
from tfdatafree.model.rule_match import rule_notes
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.progress import Progress
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.integer_kernel import kernel_grids
from tfdatafree.recipe.file import find_recipe
from tfdatafree.recipe.recipe import Recipe, with_split_outputs
from tfdatafree.recovery.distillation.recover import distilling
from tfdatafree.recovery.reconstruction.recover import reconstructing
from tfdatafree.recovery.recover import IMAGES_STAGE, LAYERS_STAGE, TRAINING_STAGES, recover
from tfdatafree.report import speed
from tfdatafree.report.assemble import COMPARED_OUTPUTS, make_report
from tfdatafree.report.evidence import gather
from tfdatafree.targets.target import Target
from tfdatafree.task import Task, make_task, with_labels

LATENCY_STEP = "time"
# The seconds that the last steps take on a small classifier.
_SECONDS = {
    FILE_STEP: 20,
    FLOAT_FILE_STEP: 5,
    IMAGES_STAGE: 400,
    LAYERS_STAGE: 600,
    TRAINING_STAGES["distill"]: 3000,
    TRAINING_STAGES["reconstruct"]: 1500,
}


def compress(
    model: "keras.Model | str | os.PathLike",
    recipe: str | os.PathLike | Recipe = "int8",
    *,
    input_range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    input_shape: tuple[int, ...] | None = None,
    representative_data: Any = None,
    target: str | Target = "generic",
    split_outputs: bool = False,
    labels: Sequence[str] | str | os.PathLike | None = None,
    measure_latency: bool = False,
    seed: int = 0,
    unsafe_load: bool = False,
    verbose: int = 1,
) -> Compressed:
    """Compresses a trained model without data. The model itself is not changed.

    Args:
        model: A Functional or Sequential `keras.Model`, a `tf_keras` model, or a path to a .keras or .h5 file.
        recipe: Name of a preset ("int8", "int8_per_tensor", "int16x8", "w4a8", "float16", "dfq", "lwdf"), the path of a recipe
            file (.json or .yaml), or a Recipe.
        input_range: (low, high) of the real inputs. For several inputs it holds for all; or give a dict from the names of
            inputs to their (low, high). What is not given is taken from a Rescaling or Normalization layer at the input, or
            else estimated from the first BatchNorm behind it. The report says which. A warning is logged if nothing tells,
            or if the statistics contradict the range that is given.
        input_shape: (height, width, channels) for a model whose input shape is not static.
        representative_data: A few real inputs, if there are any. They replace the generated ones. No value that they show
            is clipped, except where a softmax, sigmoid or tanh would not tell it from smaller ones. Give an array, a list
            of arrays, an iterable of examples or batches, a tf.data.Dataset, or the path of an .npz, an .npy, a folder of
            images, or a folder that TensorFlow Datasets has prepared. Images are fitted to the model's input and input range,
            as `inputs/input_files.py` says.
        target: Device or runtime to write for: "generic" (any TFLite runtime), "ethos-u55", "ethos-u65", "ethos-u85",
            "edgetpu", "nnapi", "hexagon", "stm32n6", "tflite-micro", or a Target. It decides what the recipe leaves
            open, and the report lists the operators that it does not compute itself.
        split_outputs: The same as `Quantize.split_outputs` in the recipe: a detector's boxes and scores that the model joins in
            one output become outputs of their own, each on a grid of its own. `.predict(x)` and `.model` give the model's own
            output all the same.
        labels: Names of the classes, for the file's metadata: a list, or the path of a text file with one name per line. They go
            with each output whose last axis has as many entries.
        measure_latency: True also times the file on this CPU, beside the float file and the int8 file of TFLite's converter, for
            the report.
        seed: The same seed gives the same bytes, with the same versions and number of cores.
        unsafe_load: True runs the Python code in a model file (Lambda layers), and reads files that it names. Only for files that
            you trust.
        verbose: 0 hides the progress bar; 2 shows lines in its place.

    Returns:
        A Compressed: `.tflite`, `.model`, `.report`, `.predict(x)`, `.save(path)`. It has no file if the recipe can only
        be simulated (`Quantize.simulated`).

    Raises:
        LoadError: The path holds no Keras model.
        UnsupportedModelError: A layer cannot be compressed; says which and what to do.
        ExportError: The file would not be what the recipe promised.
        ValueError: An option is wrong; says what came and what was wanted. Or the work would take more memory than the
            environment variable TFDATAFREE_MEMORY_GB allows (default: 8).
    """
    started = time.perf_counter()
    require_bool("split_outputs", split_outputs)
    require_bool("measure_latency", measure_latency)
    task = make_task(
        model,
        with_split_outputs(find_recipe(recipe)) if split_outputs else recipe,
        input_range=input_range,
        input_shape=input_shape,
        representative_data=representative_data,
        target=target,
        seed=seed,
        unsafe_load=unsafe_load,
    )
    task = with_labels(task, labels)
    progress = Progress(_expected_seconds(task.recipe), verbose)
    try:
        network = read_network(task, progress)
        network = precondition_network(network, task, progress)
        inputs = choose_inputs(network, task, progress)
        network = prune_network(network, task, inputs, progress)
        if task.recipe.quantize is None:
            built = write_float(network, task, inputs, progress)
            compressed = _assemble(task, network, inputs, built)
        else:
            network, observed = pass_inputs(network, task, inputs, progress)
            bits = choose_bits(network, task, observed, inputs, progress)
            decision = quantize_network(network, task, bits, observed, inputs, progress)
            built = write_integers(decision, bits, inputs, progress)
            compressed = _assemble(task, network, inputs, built, decision, bits, observed)
        if task.recipe.recover is not None:
            compressed = recover(
                compressed, task, network.input_ranges, progress, distilling(task) or reconstructing(task)
            )
        if measure_latency and compressed.built.content is not None:
            compressed = _with_latencies(compressed, network, inputs, progress)
    finally:
        progress.close()
    report = dataclasses.replace(compressed.report, seconds=time.perf_counter() - started)
    for text in report.warnings:
        if text != report.unborne:  # was logged right after pruning
            logging.warning("%s", text)
    return dataclasses.replace(compressed, report=report)


def _with_latencies(compressed: Compressed, network: Network, inputs: Inputs, progress: Progress) -> Compressed:
    with progress.stage(LATENCY_STEP):
        found = speed.measure_latency(network.source, compressed.tflite, inputs.arrays)
    return dataclasses.replace(compressed, report=dataclasses.replace(compressed.report, latencies=found))


def _expected_seconds(recipe: Recipe) -> dict[str, float]:
    """The steps of `recipe`, and the seconds that each usually takes."""
    steps = {FLOAT_FILE_STEP if recipe.quantize is None else FILE_STEP}
    if recipe.recover is not None:
        method = recipe.recover.method
        steps |= {IMAGES_STAGE, LAYERS_STAGE}
        steps |= {TRAINING_STAGES[method]} if method in TRAINING_STAGES else set()
    return expected_seconds(recipe) | {step: seconds for step, seconds in _SECONDS.items() if step in steps}


def _assemble(
    task: Task,
    network: Network,
    inputs: Inputs,
    built: Built,
    decision: Decision | None = None,
    bits: Bits | None = None,
    observed: Observed | None = None,
) -> Compressed:
    """The result: what was built, its report, and what is needed to write the network again with other weights.

    Args:
        decision, bits, observed: None for a float file.
    """
    rules = network.rules if bits is None else bits.rules
    edge_dtype = None if decision is None else decision.options.edge_dtype
    notes = rule_notes(rules, built.grids, built.graph.outputs, edge_dtype, built.float_reasons.values())
    weight_grids = {}
    reference = None if decision is None else decision.reference
    evidence = gather(built, {} if observed is None else observed.images, inputs.arrays, reference)
    if decision is not None:
        network = network.logged(reasons=decision.reasons, notes=decision.notes)
        weight_grids = kernel_grids(built.graph, {**decision.kernels, **built.kernels})
        requested = task.user_recipe.quantization
        for dense, layers in ((False, "convolutions"), (True, "dense layers")):
            if decision.options.one_step_per_channel(dense=dense) != requested.one_step_per_channel(dense=dense):
                notes[layers] = f"one weight scale per tensor, as {task.target.title} requires"
                if not dense and not task.recipe.equalize:
                    notes[layers] += "; recipe 'int8_per_tensor' makes kernels fit for that"
    policy, replay = (None, task.user_recipe) if bits is None else (bits.policy, bits.replay)
    replay = with_found_sparsity(replay, network.pruning)
    report = make_report(
        network, built, evidence, inputs, recipe=task.recipe, target=task.target, notes=notes, policy=policy
    )
    uneven = () if decision is None else uneven_warnings(decision)
    probe_inputs = None if task.representative_data is None else [array[:COMPARED_OUTPUTS] for array in inputs.arrays]
    return Compressed(
        recipe=task.user_recipe,
        replay=replay,
        report=dataclasses.replace(report, call=task.call, uneven=(*uneven, *report.uneven)),
        weight_grids=weight_grids,
        channel_scales=network.scales,
        built=built,
        evidence=evidence,
        decision=None if decision is None else _with_written_grids(decision, built, weight_grids),
        probes=Probes(ranges=network.input_ranges, seed=task.seed, user_inputs=probe_inputs),
    )


def _with_written_grids(decision: Decision, built: Built, weight_grids: Mapping[str, Quantizer | None]) -> Decision:
    """The decision with the grids that were written, for writing other weights.

    It keeps the integers of kernels without a grid along one axis. The others follow from their grids and the weights.
    """
    return dataclasses.replace(
        decision,
        graph=built.graph,
        kernels={key: decision.kernels[key] for key, grid in weight_grids.items() if grid is None},
        ranges=built.ranges,
        file_ranges=built.file_ranges,
    )
