"""compress(): a trained Keras model in, a verified integer TFLite file out, without data.

flow/pipeline.py: model -> pruned -> quantized network; here: -> export, verify -> report (-> recover)
"""

import dataclasses
import os
import time
from concurrent.futures import Executor
from typing import Any

import keras

from tfdatafree.compressed import Compressed
from tfdatafree.export.float_model import float_file
from tfdatafree.export.settings import Writing
from tfdatafree.flow.bit_search import require_size
from tfdatafree.flow.pipeline import PrunedNetwork, QuantizedNetwork, expected_work, pruned_network, quantized_network
from tfdatafree.model.rule_match import rule_notes
from tfdatafree.progress import Progress
from tfdatafree.quantization.integer_kernel import kernel_grids
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.recovery.recover import IMAGES_STAGE, LAYERS_STAGE, recover
from tfdatafree.report.assemble import COMPARED_OUTPUTS, float_source, measured_on, pruning_of, report_of, targeted_on
from tfdatafree.report.evidence import Evidence, gather, shown_inputs
from tfdatafree.targets.target import Target
from tfdatafree.task import Task, make_task

# Stages behind those of the pipeline, and what they take of the time of a middling network.
_FILE_STAGE, _FLOAT_FILE_STAGE = "export and verify", "export"
_WORK = {_FILE_STAGE: 20, _FLOAT_FILE_STAGE: 5, IMAGES_STAGE: 400, LAYERS_STAGE: 600}


def compress(
    model: "keras.Model | str | os.PathLike",
    recipe: str | Recipe = "int8",
    *,
    input_range: tuple[float, float] | None = None,
    input_shape: tuple[int, ...] | None = None,
    representative_data: Any = None,
    target: str | Target = "generic",
    seed: int = 0,
    executor: Executor | None = None,
    unsafe_load: bool = False,
    verbose: int = 1,
) -> Compressed:
    """Compresses a trained model without data. The model itself is not changed.

    Args:
        model: A Functional or Sequential `keras.Model`, a `tf_keras` model, or a path to a .keras or .h5 file.
        recipe: Name of a preset ("int8", "int8_per_tensor", "int16x8", "float16", "dfq", "lwdf"), or a Recipe.
        input_range: (low, high) of the real inputs, the same for all of them; None takes it from a Rescaling or
            Normalization layer, else estimates it from the first BatchNorm, and the report says so.
        input_shape: (height, width, channels) for a model whose input shape is not static.
        representative_data: A few real inputs, if there are any (array, list of arrays, iterable of examples or
            batches, tf.data.Dataset; or the path of an .npz, an .npy or a folder of images, which are fitted to the
            model's input and input range as `inputs/input_files.py` says): used in place of the generated ones,
            and reported.
        target: Device or runtime to write for: "generic" (any TFLite runtime), "ethos-u55", "ethos-u65", "ethos-u85",
            "edgetpu", "nnapi", "hexagon", "stm32n6", "tflite-micro", or a Target. It decides what the recipe leaves
            open, and the report lists the operators that it does not compute itself.
        seed: The same seed gives the same bytes.
        executor: Any concurrent.futures.Executor, for the per-tensor searches.
        unsafe_load: Run Python code that a .keras file carries (Lambda layers). Only for files that you trust.
        verbose: 0 hides the progress bar.

    Returns:
        A Compressed: `.tflite`, `.model`, `.report`, `.predict(x)`, `.save(path)`. Without a file where the recipe is
        simulated only (`Quantize.simulated`).

    Raises:
        LoadError: The path holds no Keras model.
        UnsupportedModelError: A layer cannot be compressed; says which and what to do.
        ExportError: The file would not be what the recipe promised.
        ValueError: An option is wrong; says what came and what was wanted.
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
    progress = Progress(_expected_work(task.recipe), verbose)
    try:
        network = pruned_network(task, progress)
        if task.recipe.quantize is None:
            return _of_floats(task, network, progress, started)
        integers = quantized_network(task, network, progress, executor)
        compressed = _of_integers(task, network, integers, progress, started)
        if task.recipe.recover is not None:
            compressed = recover(compressed, task, task.recipe.recover, network.ends, progress)
            compressed.report = dataclasses.replace(compressed.report, seconds=time.perf_counter() - started)
        return compressed
    finally:
        progress.close()


def _expected_work(recipe: Recipe) -> dict[str, float]:
    """The stages that `recipe` takes, and how long each usually takes."""
    stages = {_FLOAT_FILE_STAGE if recipe.quantize is None else _FILE_STAGE}
    if recipe.recover is not None:
        stages |= {IMAGES_STAGE, LAYERS_STAGE}
    return expected_work(recipe) | {stage: work for stage, work in _WORK.items() if stage in stages}


def _of_floats(task: Task, network: PrunedNetwork, progress: Progress, started: float) -> Compressed:
    """The float file of a network that is not quantized."""
    recipe, source, graph, inputs = task.recipe, network.source, network.pruned.graph, network.real.arrays
    with progress.stage(_FLOAT_FILE_STAGE):
        content = float_file(graph, [array[:1] for array in inputs], float16=recipe.float16)
    evidence = Evidence(inputs=shown_inputs(source.inputs, inputs))
    measured = measured_on(source, content, graph, {}, inputs) | targeted_on(content, task.target)
    report = report_of(
        source,
        recipe,
        network.prepared.found,
        float_source(recipe),
        content,
        kept=network.kept,
        notes=network.notes | rule_notes(network.prepared.rules),
        pruning=pruning_of(network.pruned, network.smaller),
        call=task.call,
        measured=measured,
        seconds=time.perf_counter() - started,
    )
    return Compressed(content, task.asked, report, graph, {}, evidence, channel_scales=network.prepared.scales)


def _of_integers(
    task: Task, network: PrunedNetwork, integers: QuantizedNetwork, progress: Progress, started: float
) -> Compressed:
    """The verified file of a quantized network."""
    source, inputs, options, rules = network.source, network.real.arrays, integers.options, integers.rules
    quantized, policy = integers.quantized, integers.policy
    given = None if task.representative_data is None else [array[:COMPARED_OUTPUTS] for array in inputs]
    with progress.stage(_FILE_STAGE):
        writing = Writing(
            teacher=integers.teacher,
            ranges=quantized.ranges,
            options=options,
            rules=rules,
            target=task.target,
            input_range=network.ends,
            seed=task.seed,
            given=given,
        )
        built = writing.write(quantized.graph, quantized.kernels, inputs)
        if policy is not None and options.int4:
            require_size(built.content, policy)
        evidence = gather(built, integers.observed.images, inputs)
        measured = measured_on(source, built.content, built.graph, built.grids, inputs)
        measured |= targeted_on(built.content, task.target)
    seconds = time.perf_counter() - started
    said = rule_notes(rules, built.grids, built.graph.outputs, options.edge_dtype, built.kept_float.values())
    notes = network.notes | built.notes | said
    if options.one_step_per_channel(dense=True) != task.asked.quantize.one_step_per_channel(dense=True):
        notes["dense layers"] = f"one weight step per tensor, as {task.target.title} wants"
    report = report_of(
        source,
        task.recipe,
        network.prepared.found,
        network.real.described,
        built.content,
        kept=network.kept | quantized.kept,
        notes=notes,
        pruning=pruning_of(network.pruned, network.smaller),
        call=task.call,
        measured=measured,
        seconds=seconds,
        integers=(built, evidence),
        policy=policy,
    )
    grids = kernel_grids(built.graph, quantized.kernels, built.kernels)
    return Compressed(
        built.content,
        task.asked,
        report,
        built.graph,
        built.grids,
        evidence,
        integers.replay,
        grids,
        integers.scales,
        writing.settled(built, quantized.kernels, grids),
    )
