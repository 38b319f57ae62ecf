"""What single parts of a network cost its results: one layer or tensor at a time is changed, all of them in one walk.

    damage = || y' - y || / || y ||,     y the results of the network, y' those with one part alone changed

for the results before softmax and the like, where errors are seen best. Errors of different parts are hardly correlated:
the square of what several do together is about the sum of their squares. (Output Discrepancy, FRanDI eq. 3, is the same for
results of equal length; unlike it the damage exists for a network with a single output, too.)

Nothing before a change is computed twice: the inputs pass once, and where a part changes its variant joins them as further
rows of the batch, so that at the end all variants have come through together. Tensors that were there before a variant joined
lack its rows; where one meets a tensor that has them, the rows of the original stand in, which is what the variant has there.
No operation may mix the examples of a batch. Where a tensor with the rows of all variants would be too large, fewer examples
walk at once, and then fewer variants.

A tensor's grid does two things, rounding and clipping, which are two parts here: clipping is seen on generated inputs only as
far as these are like real ones.
"""

from collections.abc import Collection, Sequence

import numpy as np

from tfdatafree.measuring.variants import Variant, passes, up_to_decisions
from tfdatafree.model.graph import Graph

# Layers ---------------------------------------------------------------------------------------------------------------


def single_layer_damages(
    teacher: Graph, student: Graph, layers: Collection[str], inputs: Sequence[np.ndarray]
) -> dict[str, float]:
    """Layer -> damage^2 of the teacher with that layer taken from the student; of several results the sum.

    Args:
        teacher, student: Graphs with the same nodes.
        layers: Keys of layers to try, one at a time.
        inputs: Arrays (n, ...), one per graph input.
    """
    graph = up_to_decisions(teacher)
    called = dict.fromkeys(node.layer for node in graph.nodes)
    variants = [Variant(key, layer=student.layers[key]) for key in called if key in layers]
    errors, energies = np.zeros((2, len(graph.outputs), len(variants)))
    for some, results in passes(graph, variants, inputs):
        for at, values in enumerate(results):
            rows = values.reshape(len(values), -1).astype(np.float64)
            errors[at, some] += np.square(rows[1:] - rows[0]).sum(axis=1)
            energies[at, some] += np.square(rows[0]).sum()
    found = (errors / np.maximum(energies, 1e-30)).sum(axis=0)
    found = np.minimum(np.nan_to_num(found, nan=RUINED), RUINED)
    # A layer that no result depends on can do no harm.
    names = [variant.name for variant in variants]
    return dict.fromkeys(layers, 0.0) | dict(zip(names, found.tolist(), strict=True))


# Quantizers -----------------------------------------------------------------------------------------------------------


# Walking --------------------------------------------------------------------------------------------------------------


# What stands for a damage that is no number: more than any that is.
RUINED = 1e6
