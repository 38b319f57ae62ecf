"""Fits a recipe to a target: decides what the recipe leaves open, and refuses what the target cannot compute."""

import dataclasses

from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.targets.registry import GENERIC
from tfdatafree.targets.target import Target


def fit_recipe(recipe: Recipe, target: Target) -> Recipe:
    """`recipe` with the options that it leaves open as `target` needs them.

    Raises:
        ValueError: The recipe and the target contradict each other; says what to change.
    """
    options = recipe.quantize
    if options is None:
        kind = "float16" if recipe.float16 else "float32"
        if kind not in target.float_files:
            raise ValueError(
                f"target {target.name!r} does not take files with {kind} weights, but recipe {recipe.name!r} makes such a "
                "file; choose a recipe that quantizes, e.g. 'int8'."
            )
        return recipe
    if target is GENERIC:
        return recipe
    if options.simulated:
        raise ValueError(
            f"target is {target.name!r}, but there will be no file: {options.simulated}. Leave target out, or choose a "
            "recipe that can be written, e.g. 'int8'."
        )
    if options.activation_bits not in target.activation_bits:
        widths = " or ".join(map(str, target.activation_bits))
        raise ValueError(
            f"activation_bits is {options.activation_bits}, but {target.title} computes with {widths}; choose "
            f"activation_bits={target.activation_bits[0]} (recipe 'int8'), or another target."
        )
    for rule in recipe.rules:
        if rule.activation_bits not in (None, *target.activation_bits):
            raise ValueError(
                f"activation_bits of rule {rule.pattern!r} is {rule.activation_bits}, but {target.title} computes with "
                f"{' or '.join(map(str, target.activation_bits))}; leave it out, or choose another target."
            )
    if options.edge_dtype not in target.edge_dtypes:
        listed = ", ".join(repr(dtype) for dtype in target.edge_dtypes)
        raise ValueError(
            f"edge_dtype is {options.edge_dtype!r}, but {target.title} takes {listed}; choose one of these."
        )
    return dataclasses.replace(recipe, quantize=_fit_weights(options, target))


def _fit_weights(options: Quantize, target: Target) -> Quantize:
    if not target.int4_weights:
        if options.int4:
            raise ValueError(
                f"int4 is True, but {target.title} reads weights of a byte each; set int4=False, which stores 4-bit weights in "
                "int8."
            )
        options = dataclasses.replace(options, int4=False)
    if not target.per_channel and options.per_channel is None:
        options = dataclasses.replace(options, per_channel=False)
    if target.dense_per_channel or options.per_channel is False or not target.per_channel:
        return options
    if options.dense_per_channel:
        raise ValueError(
            f"dense_per_channel is True, but {target.title} needs one step per tensor for the weights of dense layers; "
            "leave it out, or set it to False."
        )
    return dataclasses.replace(options, dense_per_channel=False)
