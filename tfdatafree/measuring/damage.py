"""Measures what single layers cost the results: each layer is changed alone, and one walk measures all of them.

    damage = || y' - y || / || y ||,     y the results of the network, y' those with one part alone changed

Results are taken before softmax and the like, where errors show best. Errors of different parts are hardly correlated, so the
square of what several do together is about the sum of their squares. Output Discrepancy (FRanDI eq. 3) is the same for results of
equal length. The damage also exists for a network with a single output.

The inputs pass once, so that nothing before a change is computed twice. Where a part changes, its variant joins the batch as
further rows. At the end, all variants have passed together. A tensor from before a variant joined lacks the variant's rows.
Where it meets a tensor that has them, the original's rows are repeated, because they are the variant's values there. No
operation may mix the examples of a batch. If a tensor with the rows of all variants is too large, fewer examples walk at once,
and then fewer variants.

Rounding and clipping by a tensor's grid are two parts. Generated inputs show clipping only as far as they resemble real ones.
"""

from collections.abc import Collection, Sequence

import numpy as np
from scipy.special import log_softmax

from tfdatafree.measuring.variants import Variant, passes, up_to_decisions
from tfdatafree.model.graph import Graph

# Stands for a damage that is not a number. It is larger than any damage that is one.
RUINED = 1e6


def single_layer_divergences(
    reference: Graph, changed: Graph, layers: Collection[str], inputs: Sequence[np.ndarray]
) -> dict[str, float]:
    """Layer -> (KL(p || q) + KL(q || p)) / 2 of the results' softmax p of `reference` and q with that layer from `changed`.

    The mean over inputs and positions, summed over several results. The arguments are those of `single_layer_damages`.
    Source: Cai et al. 2020, ZeroQ, arXiv 2001.00281, section 3.2.
    """
    graph, variants = _of_layers(reference, changed, layers)
    found = np.zeros(len(variants))
    for some, results in passes(graph, variants, inputs):
        for values in results:
            logs = log_softmax(values.astype(np.float64), axis=-1)
            # KL(p || q) + KL(q || p) = sum (p - q) (log p - log q)
            both = ((np.exp(logs[1:]) - np.exp(logs[0])) * (logs[1:] - logs[0])).sum(axis=-1) / 2
            found[some] += both.reshape(len(both), -1).mean(axis=1) * len(values[0]) / len(inputs[0])
    return _named(layers, variants, found)


def single_layer_damages(
    reference: Graph, changed: Graph, layers: Collection[str], inputs: Sequence[np.ndarray]
) -> dict[str, float]:
    """Layer -> damage^2 of `reference` with that layer taken from `changed`; the sum over several results.

    Args:
        reference, changed: Graphs with the same nodes.
        layers: Keys of the layers to change, one at a time.
        inputs: Arrays (n, ...), one per graph input.
    """
    graph, variants = _of_layers(reference, changed, layers)
    errors, energies = np.zeros((2, len(graph.outputs), len(variants)))
    for some, results in passes(graph, variants, inputs):
        for at, values in enumerate(results):
            rows = values.reshape(len(values), -1).astype(np.float64)
            errors[at, some] += np.square(rows[1:] - rows[0]).sum(axis=1)
            energies[at, some] += np.square(rows[0]).sum()
    return _named(layers, variants, (errors / np.maximum(energies, 1e-30)).sum(axis=0))


def _of_layers(reference: Graph, changed: Graph, layers: Collection[str]) -> tuple[Graph, list[Variant]]:
    """(`reference` up to its results before softmax, one variant for each of the layers)."""
    graph = up_to_decisions(reference)
    called = dict.fromkeys(node.layer for node in graph.nodes)
    return graph, [Variant(key, layer=changed.layers[key]) for key in called if key in layers]


def _named(layers: Collection[str], variants: Sequence[Variant], damages: np.ndarray) -> dict[str, float]:
    damages = np.minimum(np.nan_to_num(damages, nan=RUINED), RUINED)
    # A layer that no result depends on can do no harm.
    names = [variant.name for variant in variants]
    return dict.fromkeys(layers, 0.0) | dict(zip(names, damages.tolist(), strict=True))
