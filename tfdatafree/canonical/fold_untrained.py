"""Folds BatchNorms whose statistics are those that Keras gives every new layer, or that a converter left behind.

mean = 0 and the same variance in all channels   ->   the BatchNorm is only a scale and a shift

so that the function is unchanged, and no later stage takes such statistics for those of data.
"""

import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.rewrite import Rewrite


def fold_untrained(graph: Graph) -> Rewrite:
    """The same function without BatchNorms whose statistics tell nothing."""
    count = sum(is_untrained(graph.layer_of(node)) for node in graph.nodes)
    if not count:
        return Rewrite(graph=graph)
    text = (
        f"{count} of them hold the statistics of an untrained layer (means 0, all variances equal), which tell nothing about "
        "data; they count as scale and shift"
    )
    return Rewrite(graph=fold(graph, is_untrained).graph, notes={"BatchNorm": text})


def is_untrained(layer: Layer) -> bool:
    """Whether `layer` is a BatchNorm whose statistics tell nothing about the data that it was trained on."""
    if not is_batchnorm(layer):
        return False
    mean, variance = layer.required_weight("moving_mean"), layer.required_weight("moving_variance")
    return not np.any(mean) and bool(np.all(variance == variance[0])) and variance[0] > 0
