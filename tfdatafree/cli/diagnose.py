"""`tfdatafree diagnose`: says which layers lose most accuracy."""

import dataclasses
from pathlib import Path

from absl import flags

from tfdatafree.cli.command import (
    NAME,
    Command,
    Flags,
    add_inputs,
    find_recipe,
    import_tensorflow,
    model_arguments,
    require_inputs,
    require_model,
    shown_progress,
    write_recipe,
)
from tfdatafree.cli.layout import fitted
from tfdatafree.recipe.recipe import PRESETS
from tfdatafree.targets.fit import fit_recipe
from tfdatafree.targets.registry import NAMES_WITH_PARTS, TARGETS, get_target


def _define(options: Flags) -> None:
    options.add("recipe", "int8", f"What to diagnose: {', '.join(PRESETS)}; or a recipe file.", meta="NAME|FILE")
    add_inputs(options)
    options.add(
        "target",
        "generic",
        f"Device or runtime that the file is for: {', '.join(TARGETS)}. {NAMES_WITH_PARTS}",
        meta="NAME",
    )
    options.add("images", 8, "Number of inputs to measure on.", meta="N", lower=1)
    options.add("seed", 0, "Seed of the generated inputs.", meta="N", lower=0)
    options.add("rules", 1, "Number of the worst layers for which --save_recipe gets rules.", meta="N", lower=1)
    options.add("save_recipe", None, "Write the recipe with rules that follow the advice.", meta="FILE.json|.yaml")
    options.add("overwrite", False, "Replace output files that exist.")
    options.add("unsafe_load", False, "Run Python code stored in the model (Lambda layers). Only for models you trust.")


def _run(values: flags.FlagValues, model: str) -> None:
    recipe = find_recipe(values.recipe)
    fit_recipe(recipe, get_target(values.target))
    arguments = model_arguments(values)
    require_model(model)
    require_inputs(values, model)
    import_tensorflow()
    from tfdatafree.diagnosis.diagnose import diagnose

    diagnosis = diagnose(model, recipe, **arguments, images=values.images, verbose=shown_progress())
    print(fitted(str(diagnosis)))
    if values.save_recipe is not None:
        rules = diagnosis.rules(values.rules)
        name = recipe.name if not rules else f"{recipe.name}, diagnosed"
        recipe = dataclasses.replace(recipe, name=name, rules=(*rules, *recipe.rules))
        write_recipe(recipe, Path(values.save_recipe))
        print(f"\nwrote {values.save_recipe}; use it with: {NAME} compress {model} --recipe={values.save_recipe} ...")


COMMAND = Command(
    ("MODEL",),
    "",
    "Says which layers lose most accuracy with a recipe, and what to do about it. No data is needed.",
    "MODEL is a .keras or .h5 file. One quantizer at a time is switched on; no TFLite file is made.",
    "tfdatafree diagnose mobilenet.keras --input_range=-1,1 --save_recipe=better.json",
    _define,
    _run,
)
