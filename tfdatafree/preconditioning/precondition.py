"""Before anything is rounded or pruned: the model checked, and made easier to quantize."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.inputs.make import make_inputs
from tfdatafree.measuring.damage import single_layer_damages
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.metrics import relative_error
from tfdatafree.preconditioning.absorb_bias import absorb_biases
from tfdatafree.preconditioning.constant_channels import freeze_constant_channels
from tfdatafree.preconditioning.equalize import equalize_unfolded
from tfdatafree.preconditioning.outliers import scale_outlier_channels
from tfdatafree.preconditioning.scale_channels import multiplied
from tfdatafree.recipe.recipe import Recipe

# Generated inputs on which float outputs are compared.
_COMPARED = 8
# Generated inputs on which channels are seen to be constant for the results, too, and by how much these may change, squared.
_WATCHED, _HARMLESS = 2, 1e-4
# Generated inputs on which outliers are seen.
_SEEN = 16


@dataclass(frozen=True)
class Preconditioning:
    """What was done before quantization, and what was left alone, by layer.

    Attributes:
        moving: Options of the recipe that moved caps, and with them the float function; empty if none did.
        scales: First layer of those that write the same channels -> (channels,) what these were multiplied by.
    """

    notes: dict[str, str]
    kept: dict[str, str]
    moving: str
    scales: dict[str, np.ndarray]


def precondition(
    unfolded: Graph, recipe: Recipe, input_range: tuple[float, float], seed: int = 0
) -> tuple[Graph, Preconditioning]:
    """The unfolded graph made easier to quantize; its function stays, as far as integers could tell.

    Args:
        input_range: (low, high) of the model's inputs; with `seed` for the few generated ones that this is checked on.
    """
    notes, kept, moving, scales = {}, {}, [], dict[str, np.ndarray]()
    if recipe.quantize is not None or recipe.prune is not None:
        unfolded, frozen, lively = _without_constant_channels(unfolded, input_range, seed)
        for name, count in frozen.items():
            notes[name] = f"{count} channel(s) made constant: they move by less than the 8-bit grid"
        for name, count in lively.items():
            kept[name] = (
                f"{count} channel(s) move by less than the 8-bit grid, but the results depend on it: another channel is far "
                "larger. Try equalize=True, or 16-bit activations."
            )
    if recipe.scale_outliers and recipe.quantize is not None:
        seen = make_inputs(unfolded, _SEEN, input_range, seed=seed)
        unfolded, scaled, reasons = scale_outlier_channels(unfolded, seen, bits=recipe.quantize.weight_bits, seed=seed)
        said = "channel(s) with outlying weights scaled across the cap"
        notes |= {name: f"{np.count_nonzero(scale != 1)} {said}" for name, scale in scaled.items()}
        scales = multiplied(scales, scaled)
        moving += ["scale_outliers=True"] if scaled else []
        kept |= {name: f"no channels scaled across its cap: {reason}" for name, reason in reasons.items()}
    if recipe.equalize:
        moving += [f"equalize_caps={recipe.equalize_caps!r}"] if recipe.equalize_caps in ("limit", "drop") else []
        unfolded, scaled, reasons = equalize_unfolded(unfolded, power=recipe.equalize_power, caps=recipe.equalize_caps)
        scales = multiplied(scales, scaled)
        kept |= {name: f"not equalized: {reason}" for name, reason in reasons.items()}
    if recipe.absorb_bias:
        unfolded, moved, reasons = absorb_biases(unfolded)
        notes |= {name: f"high biases of {count} channel(s) moved into the next layer" for name, count in moved.items()}
        kept |= {name: f"high biases stay: {reason}" for name, reason in reasons.items()}
    return unfolded, Preconditioning(notes, kept, " and ".join(moving), scales)


def _without_constant_channels(
    graph: Graph, input_range: tuple[float, float], seed: int
) -> tuple[Graph, dict[str, int], dict[str, int]]:
    """The graph with constant channels frozen where the results hardly change; how many, by BatchNorm; and how many not.

    A channel can be small beside its neighbours and yet be what the layers behind read, with large weights.
    """
    frozen, counts = freeze_constant_channels(graph)
    if not counts:
        return graph, {}, {}
    layers = {name: frozen.node(name).layer for name in counts}
    inputs = make_inputs(graph, _WATCHED, input_range, seed=seed)
    damages = single_layer_damages(graph, frozen, set(layers.values()), inputs)
    total, spared = 0.0, graph.copy()
    for key in sorted(damages, key=damages.get):
        total += damages[key]
        if total <= _HARMLESS:
            spared.layers[key] = frozen.layers[key]
    done = {name for name, key in layers.items() if spared.layers[key] is frozen.layers[key]}
    return (
        spared,
        {name: count for name, count in counts.items() if name in done},
        {name: count for name, count in counts.items() if name not in done},
    )


def moved_by_caps(original: Graph, teacher: Graph, inputs: list[np.ndarray], moving: str) -> str:
    """How far the float outputs moved, between the unfolded graph as it came and the folded one."""
    some = [array[:_COMPARED] for array in inputs]
    pairs = zip(fold(original)[0].predict(some), teacher.predict(some), strict=True)
    change = max(relative_error(after, before) for before, after in pairs)
    return f"with {moving} the float outputs move by {change:.1%} on {len(some[0])} generated inputs"


def moved_results(before: Graph, after: Graph, inputs: list[np.ndarray]) -> str:
    """How far the float results, before softmax and the like, moved."""
    some = [array[:_COMPARED] for array in inputs]
    watched = decision_tensors(before) or list(before.outputs)
    results = []
    for graph in (after, before):
        shortened = dataclasses.replace(graph.copy(), outputs=watched)
        shortened.drop_unread()
        results.append(shortened.predict(some))
    change = max(relative_error(found, wanted) for found, wanted in zip(*results, strict=True))
    return f"the float outputs move by {change:.1%} on {len(some[0])} generated inputs"
