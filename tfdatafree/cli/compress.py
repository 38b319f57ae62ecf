"""`tfdatafree compress`: writes the integer file of a model."""

import dataclasses
from pathlib import Path
from typing import Literal, cast

from absl import flags

from tfdatafree.cli.command import (
    Command,
    Flags,
    add_inputs,
    find_recipe,
    import_tensorflow,
    model_arguments,
    number,
    require_distinct,
    require_inputs,
    require_model,
    require_writable,
    shown_progress,
    typed_command,
    write_recipe,
)
from tfdatafree.cli.layout import fitted
from tfdatafree.recipe.check import require_name
from tfdatafree.recipe.distillation import METHODS
from tfdatafree.recipe.prune import PRUNE_METHODS, Prune, PruneMethod
from tfdatafree.recipe.recipe import FEWEST_IMAGES, PRESETS, Recipe, Recover, RecoverMethod, Search, with_split_outputs
from tfdatafree.recipe.size import parse_size
from tfdatafree.report.plots import require_bokeh
from tfdatafree.targets.fit import fit_recipe
from tfdatafree.targets.registry import NAMES_WITH_PARTS, TARGETS, get_target
from tfdatafree.tflite.labels import read_labels

# Exit code of a compression whose result is useless, with --strict.
_FAILED = 3


def _define(options: Flags) -> None:
    options.add("output", None, "Where to write the TFLite file. Required.", meta="FILE.tflite", short="o")
    options.add("recipe", "int8", f"What to do: {', '.join(PRESETS)}; or a recipe file.", meta="NAME|FILE")
    options.add("save_recipe", None, "Also write the recipe to a file, which --recipe takes.", meta="FILE.json|.yaml")
    add_inputs(options)
    options.add(
        "size",
        None,
        "Largest size of the file as a part of the int8 file's bytes, e.g. 0.6, or in bytes, e.g. 250kB: each layer gets 4 or "
        "8 bits, so that the outputs change least.",
        meta="PART|BYTES",
    )
    options.add(
        "sparsity",
        None,
        "Part of the convolution and dense weights to make zero, e.g. 0.6; or auto: the most that keeps 95 % of the decisions on "
        "generated inputs.",
        meta="PART|auto",
    )
    options.add("prune", None, f"How zeros are chosen (default auto): {', '.join(PRUNE_METHODS)}.", meta="METHOD")
    options.add("pattern", None, "Where zeros may be: 2:4, 4:8, or blocks such as 4x1 with --sparsity.", meta="PATTERN")
    options.add(
        "recover",
        None,
        "Solve the layers of the integer network again on this many generated images, e.g. 256. It can win back accuracy at "
        "4 bits, and takes far longer. Or reconstruct: then also learn the roundings and scales of each block, for minutes. Or "
        f"distill: then also train the whole network, for many minutes; or a method of it: {', '.join(METHODS)}.",
        meta="N|METHOD",
    )
    options.add(
        "target",
        "generic",
        f"Device or runtime to write for: {', '.join(TARGETS)}. {NAMES_WITH_PARTS}",
        meta="NAME",
    )
    options.add(
        "split_outputs",
        False,
        "Give out the branches of an output one by one where their ranges differ a lot, as a detector's boxes and scores do. "
        "The report says how to join them.",
    )
    options.add("labels", None, "Names of the classes, one per line; they become part of the file.", meta="FILE.txt")
    options.add(
        "measure_latency",
        False,
        "Time the file on this CPU, beside the float file and the int8 file of TFLite's converter, for the report.",
    )
    options.add("report", None, "Also write the report: a page to look at, or JSON.", meta="FILE.html|.json")
    options.add("simulated", None, "Also write a Keras model that computes the same integers.", meta="FILE.keras")
    options.add("seed", 0, "The same seed gives the same bytes.", meta="N", lower=0)
    options.add("overwrite", False, "Replace output files that exist.")
    options.add("unsafe_load", False, "Run Python code stored in the model (Lambda layers). Only for models you trust.")
    options.add(
        "strict",
        False,
        "Exit with code 3 if the outputs are unlike the float model's (estimated agreement under 80 %; without classes, below "
        "6 dB) or the network does not bear its pruning. The files are written all the same.",
    )
    options.add("quiet", False, "Print nothing but errors.")


def _run(values: flags.FlagValues, model: str) -> int:
    if values.output is None:
        raise ValueError("there is no output; add -o FILE.tflite.")
    recipe = find_recipe(values.recipe)
    target = get_target(values.target)
    zeros = _prune(values.sparsity, values.prune, values.pattern)
    if zeros is not None:
        recipe = dataclasses.replace(recipe, prune=zeros)
    policy = _search(values.size)
    if policy is not None:
        recipe = dataclasses.replace(recipe, policy=policy)
    recipe = _recovering(recipe, values.recover)
    if values.split_outputs:
        recipe = with_split_outputs(recipe)
    fit_recipe(recipe, target)
    arguments = model_arguments(values)
    require_model(model)
    outputs = []
    for name, endings in (("output", (".tflite",)), ("report", (".html", ".json")), ("simulated", (".keras",))):
        if getattr(values, name) is not None:
            outputs.append(Path(getattr(values, name)))
            require_writable(name, outputs[-1], endings, model, values.overwrite)
    require_distinct(outputs if values.save_recipe is None else [*outputs, Path(values.save_recipe)])
    if any(path.suffix == ".html" for path in outputs):
        require_bokeh()
    require_inputs(values, model)
    read_labels(values.labels)
    import_tensorflow(quiet=values.quiet)
    from tfdatafree.compress import compress

    compressed = compress(
        model,
        recipe,
        **arguments,
        labels=values.labels,
        measure_latency=values.measure_latency,
        verbose=shown_progress(quiet=values.quiet),
    )
    report = dataclasses.replace(compressed.report, command=typed_command("compress", values, model))
    compressed = dataclasses.replace(compressed, report=report)
    for path in outputs:
        compressed.save(path, overwrite=values.overwrite)
    if values.save_recipe is not None:
        outputs.append(Path(values.save_recipe))
        write_recipe(recipe, outputs[-1])
    if not values.quiet:
        print(fitted(str(compressed.report)))
        print()
        for path in outputs:
            print(f"wrote {path}")
    return _FAILED if values.strict and compressed.report.failures else 0


def _search(size: str | None) -> Search | None:
    """The options that --size stands for."""
    return None if size is None else Search(size=parse_size("size", size))


def _recovering(recipe: Recipe, images: str | None) -> Recipe:
    """`recipe` with the images, or the method, that --recover stands for; its other options of recovery stay."""
    options = recipe.recover or Recover()
    if images in ("distill", "reconstruct"):
        method = cast(RecoverMethod, images)
        return dataclasses.replace(recipe, recover=dataclasses.replace(options, method=method))
    if images in METHODS:
        recover = dataclasses.replace(options, method="distill", distillation=images)
        return dataclasses.replace(recipe, recover=recover)
    try:
        count = number("recover", images, int, "256")
    except ValueError as error:
        raise ValueError(f"{error} Or give distill, reconstruct, or one of {', '.join(METHODS)}.") from None
    if count is None:
        return recipe
    if count < FEWEST_IMAGES:
        raise ValueError(f"recover is {count}; give a number of generated images of at least {FEWEST_IMAGES}.")
    return dataclasses.replace(recipe, recover=dataclasses.replace(options, images=count))


def _prune(sparsity: str | None, method: str | None, pattern: str | None) -> Prune | None:
    """The options that --sparsity, --prune and --pattern stand for."""
    if sparsity is None and pattern is None:
        if method is not None:
            raise ValueError(f"prune is {method!r}, but there is no sparsity; add --sparsity=0.6.")
        return None
    require_name("prune", method or "auto", PRUNE_METHODS)
    part: float | Literal["auto"] | None = "auto" if sparsity == "auto" else number("sparsity", sparsity, float, "0.6")
    return Prune(sparsity=part, method=cast(PruneMethod, method or "auto"), pattern=pattern)


COMMAND = Command(
    ("MODEL",),
    "-o FILE.tflite",
    "Writes the integer TFLite file of a trained Keras model. No data is needed.",
    "MODEL is a .keras or .h5 file.",
    "tfdatafree compress mobilenet.keras -o mobilenet.tflite --input_range=-1,1",
    _define,
    _run,
)
