"""The passes that a recipe asks for before anything is pruned or rounded, and how far they move the float outputs."""

import dataclasses
from functools import partial

import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRanges
from tfdatafree.model.rewrite import Pass, Rewrite, apply_passes
from tfdatafree.numerics.metrics import relative_error
from tfdatafree.preconditioning.absorb_bias import absorb_biases
from tfdatafree.preconditioning.constant_channels import freeze_harmless_channels
from tfdatafree.preconditioning.equalize import equalize_unfolded
from tfdatafree.preconditioning.outliers import scale_outlier_channels
from tfdatafree.recipe.recipe import Recipe

# Generated inputs on which float outputs are compared.
_COMPARED = 8
# Generated inputs that show where channels have outlying weights.
_SHOWN = 16


def precondition(unfolded: Graph, recipe: Recipe, ranges: InputRanges, seed: int = 0) -> Rewrite:
    """A separated graph with its BatchNorms made easier to quantize, as the recipe says.

    Args:
        ranges: Ranges of the generated inputs on which passes measure.
        seed: Seed of these inputs.
    """
    return apply_passes(unfolded, passes_of(recipe, ranges, seed))


def passes_of(recipe: Recipe, ranges: InputRanges, seed: int = 0) -> list[Pass]:
    """The passes that the recipe asks for, in their order. Each says in `kept` what it did not do, and why."""
    passes: list[Pass] = []
    if recipe.quantize is not None or recipe.prune is not None:
        passes.append(partial(freeze_harmless_channels, ranges=ranges, seed=seed))
    if recipe.scale_outliers and recipe.quantize is not None:
        bits = recipe.quantize.weight_bits

        def scale_outliers(graph: Graph) -> Rewrite:
            shown = make_inputs(graph, _SHOWN, ranges, seed=seed)
            return scale_outlier_channels(graph, shown, bits=bits, seed=seed)

        passes.append(_saying("no channels scaled across its cap", scale_outliers))
    if recipe.equalize:
        equalize = partial(equalize_unfolded, power=recipe.equalize_power, caps=recipe.equalize_caps)
        passes.append(_saying("not equalized", equalize))
    if recipe.absorb_bias:
        passes.append(_saying("high biases stay", absorb_biases))
    return passes


def _saying(not_done: str, apply: Pass) -> Pass:
    """The pass `apply`, with what was not done put before each of its reasons."""

    def labelled(graph: Graph) -> Rewrite:
        rewrite = apply(graph)
        return dataclasses.replace(rewrite, kept={name: f"{not_done}: {why}" for name, why in rewrite.kept.items()})

    return labelled


def moved_by_caps(original: Graph, folded: Graph, inputs: list[np.ndarray], inexact: str) -> str:
    """A note that says how far the options `inexact` moved the float outputs.

    Args:
        original: The graph with its BatchNorms, before any pass.
        folded: The folded graph, after all passes.
    """
    some = [array[:_COMPARED] for array in inputs]
    pairs = zip(fold(original).graph.predict(some), folded.predict(some), strict=True)
    change = max(relative_error(after, before) for before, after in pairs)
    return f"with {inexact} the float outputs move by {change:.1%} on {len(some[0])} generated inputs"


def moved_results(before: Graph, after: Graph, inputs: list[np.ndarray]) -> str:
    """A note that says how far the float results moved. They are compared before softmax and the like."""
    some = [array[:_COMPARED] for array in inputs]
    watched = decision_tensors(before) or list(before.outputs)
    results = []
    for graph in (after, before):
        shortened = dataclasses.replace(graph.copy(), outputs=watched)
        shortened.drop_unread()
        results.append(shortened.predict(some))
    change = max(relative_error(moved, original) for moved, original in zip(*results, strict=True))
    return f"the float outputs move by {change:.1%} on {len(some[0])} generated inputs"
