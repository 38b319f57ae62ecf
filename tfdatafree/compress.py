"""compress(): a trained Keras model in, a verified integer TFLite file out, without data.

    load -> separate -> fold BatchNorm -> generate inputs -> prune -> level, pass inputs on -> search bits -> round weights,
         correct biases -> ranges -> export, verify -> report (-> recover)

The unfolded graph is kept beside the folded one: its BatchNorm statistics are the data.
"""

import dataclasses
import os
import time
from concurrent.futures import Executor
from typing import Any

import keras

from tfdatafree.bit_search import packed_unless_told, require_size, search_bits, with_policy
from tfdatafree.compressed import Compressed
from tfdatafree.evidence import Evidence, gather, shown_inputs
from tfdatafree.export.float_model import float_file
from tfdatafree.optimizers.rounding import kernel_grids
from tfdatafree.preconditioning import moved_by_caps, moved_results
from tfdatafree.preparation import inputs_for, level, make_task, means_for, observe_for, prepare, read
from tfdatafree.progress import Progress
from tfdatafree.prune_channels import prune_channels
from tfdatafree.pruning import Pruned, prune
from tfdatafree.quantization import input_ranges, quantize
from tfdatafree.recipe import Recipe
from tfdatafree.record import COMPARED_OUTPUTS, float_source, measured_on, pruning_of, report_of, targeted_on
from tfdatafree.recovery import IMAGES_STAGE, LAYERS_STAGE, recover, require_recoverable
from tfdatafree.rule_targets import apply_rules, rule_notes
from tfdatafree.targets import Target
from tfdatafree.visitors.fold_batchnorm import fold
from tfdatafree.visitors.fold_scales import fold_scales
from tfdatafree.writing import Writing

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
    "export and verify": 20,
    "export": 5,
    IMAGES_STAGE: 400,
    LAYERS_STAGE: 600,
}


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
            model's input and input range as `generators/input_files.py` says): used in place of the generated ones,
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
    asked, recipe, profile = task.asked, task.recipe, task.target
    progress = Progress(_expected_work(recipe), verbose)
    try:
        with progress.stage("load"):
            source, original = read(task)
            if recipe.recover is not None:
                require_recoverable(source, original, recipe.recover)
        with progress.stage("fold BatchNorm"):
            prepared = prepare(task, source, original)
            unfolded, teacher, found, rules = prepared.unfolded, prepared.teacher, prepared.found, prepared.rules
            ends, kept, notes = (found.low, found.high), prepared.kept, prepared.notes
        with progress.stage("generate inputs"):
            real = inputs_for(task, prepared)
            inputs = real.arrays
        if prepared.moving:
            notes[source.name] = moved_by_caps(original, teacher, inputs, prepared.moving)
        smaller, zeros = None, recipe.prune
        if recipe.prune is not None and recipe.prune.method == "channel":
            with progress.stage("remove channels"):
                smaller, zeros = prune_channels(unfolded, recipe.prune, input_range=ends, seed=seed), None
                whole, unfolded = teacher, smaller.graph
                teacher = fold_scales(fold(unfolded)[0])
                notes["channels removed"] = moved_results(whole, teacher, inputs)
            kept |= smaller.kept
        pruned = Pruned(teacher, {}, "none", {}, {})
        if zeros is not None:
            with progress.stage("prune"):
                pruned = prune(
                    teacher,
                    unfolded,
                    zeros,
                    input_range=ends,
                    means=means_for(task, unfolded, inputs),
                    seed=seed,
                    fixed=rules.setting("sparsity"),
                )
            kept |= pruned.kept
        if recipe.quantize is None:
            with progress.stage("export"):
                content = float_file(pruned.graph, [array[:1] for array in inputs], float16=recipe.float16)
            evidence = Evidence(inputs=shown_inputs(source.inputs, inputs))
            measured = measured_on(source, content, pruned.graph, {}, inputs) | targeted_on(content, profile)
            report = report_of(
                source,
                recipe,
                found,
                float_source(recipe),
                content,
                kept=kept,
                notes=notes | rule_notes(rules),
                pruning=pruning_of(pruned, smaller),
                call=task.call,
                measured=measured,
                seconds=time.perf_counter() - started,
            )
            scales = prepared.scales
            return Compressed(content, asked, report, pruned.graph, {}, evidence, channel_scales=scales)
        with progress.stage("pass inputs through the layers"):
            unfolded, teacher, student, scales = level(task, prepared, unfolded, teacher, pruned.graph)
            pruned = dataclasses.replace(pruned, graph=student)
            observed = observe_for(task, unfolded, teacher, inputs)
        options = recipe.quantize
        policy, replay = None, asked
        if recipe.policy is not None:
            options = packed_unless_told(options)
            with progress.stage("search bits"):
                policy = search_bits(pruned.graph, pruned.masks, observed, inputs, options, recipe.policy, rules)
                replay = with_policy(asked, policy, rules, pruned.graph, int4=options.int4)
                rules = apply_rules(replay.rules, source, teacher)
        with progress.stage("round weights, choose ranges"):
            given = input_ranges(teacher, found, observed, options, not real.in_range)
            quantized = quantize(
                pruned.graph, unfolded, pruned.masks, observed, inputs, given, options, executor, rules
            )
            kept |= quantized.kept
        with progress.stage("export and verify"):
            writing = Writing(
                teacher=teacher,
                ranges=quantized.ranges,
                options=options,
                rules=rules,
                target=profile,
                input_range=ends,
                seed=seed,
                given=None if representative_data is None else [array[:COMPARED_OUTPUTS] for array in inputs],
            )
            built = writing.write(quantized.graph, quantized.kernels, inputs)
            if policy is not None and options.int4:
                require_size(built.content, policy)
            evidence = gather(built, observed.images, inputs)
            measured = measured_on(source, built.content, built.graph, built.grids, inputs)
            measured |= targeted_on(built.content, profile)
        seconds = time.perf_counter() - started
        grids = kernel_grids(built.graph, quantized.kernels, built.kernels)
        said = rule_notes(rules, built.grids, built.graph.outputs, options.edge_dtype, built.kept_float.values())
        notes |= built.notes | said
        if options.one_step_per_channel(dense=True) != asked.quantize.one_step_per_channel(dense=True):
            notes["dense layers"] = f"one weight step per tensor, as {profile.title} wants"
        report = report_of(
            source,
            recipe,
            found,
            real.described,
            built.content,
            kept=kept,
            notes=notes,
            pruning=pruning_of(pruned, smaller),
            call=task.call,
            measured=measured,
            seconds=seconds,
            integers=(built, evidence),
            policy=policy,
        )
        writing = writing.settled(built, quantized.kernels, grids)
        compressed = Compressed(
            built.content, asked, report, built.graph, built.grids, evidence, replay, grids, scales, writing
        )
        if recipe.recover is not None:
            compressed = recover(compressed, task, recipe.recover, ends, progress)
            compressed.report = dataclasses.replace(compressed.report, seconds=time.perf_counter() - started)
        return compressed
    finally:
        progress.close()


def _expected_work(recipe: Recipe) -> dict[str, float]:
    """The stages that `recipe` takes, and how long each usually takes."""
    channels = recipe.prune is not None and recipe.prune.method == "channel"
    left_out = {"export" if recipe.quantize is not None else "export and verify"}
    if recipe.prune is None or channels:
        left_out.add("prune")
    if not channels:
        left_out.add("remove channels")
    if recipe.policy is None:
        left_out.add("search bits")
    if recipe.recover is None:
        left_out |= {IMAGES_STAGE, LAYERS_STAGE}
    if recipe.quantize is None:
        left_out |= {"round weights, choose ranges", "pass inputs through the layers"}
    return {stage: work for stage, work in _WORK.items() if stage not in left_out}
