"""Makes channels constant that no integer grid could tell from constants.

A BatchNorm with tiny gamma or variance writes channels that hardly move: sd << the tensor's range. Folding would give them
weights of any size, up to thousands of times their neighbours', which no other channel's output needs: one such channel ruins
a per-tensor weight grid, and its bias overflows. Where

    sd_c  <  step / 4,     step = (max_c (beta_c + 4 sd_c) - min_c (beta_c - 4 sd_c)) / 255

gamma_c = 0, so that the folded layer has weights 0 and bias beta_c there: the output moves by less than the 8-bit rounding
of its own tensor does.
"""

import numpy as np

from tfdatafree.model.batchnorm import is_batchnorm, output_moments
from tfdatafree.model.graph import Graph

_REACH = 4.0  # standard deviations that a tensor's range surely covers
_STEPS = 255
_PART_OF_STEP = 0.25


def freeze_constant_channels(graph: Graph) -> tuple[Graph, dict[str, int]]:
    """An unfolded graph with the gamma of constant channels set to 0, and {BatchNorm node: number of such channels}.

    A BatchNorm without gamma is left alone.
    """
    graph, frozen = graph.copy(), {}
    for node in graph.nodes:
        layer = graph.layer_of(node)
        gamma = layer.weight("gamma") if is_batchnorm(layer) else None
        if gamma is None:
            continue
        mean, sd = output_moments(layer)
        step = ((mean + _REACH * sd).max() - (mean - _REACH * sd).min()) / _STEPS
        constant = sd < _PART_OF_STEP * step
        if constant.any() and np.any(gamma[constant] != 0):
            graph.layers[node.layer] = layer.with_weights(gamma=np.where(constant, 0, gamma))
            frozen[node.name] = int(constant.sum())
    return graph, frozen
