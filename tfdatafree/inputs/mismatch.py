"""How well inputs fit a network: the statistics of what its BatchNorms read, beside those that they store.

    mismatch of a BatchNorm = mean over its channels of KL( N(m, v) || N(m*, v*) ), in nats

m and v are the mean and variance of what it reads when the inputs pass through the network. It stores m* and v*. Channels that
were constant in training tell nothing and are left out.
"""

from collections.abc import Sequence

import numpy as np

from tfdatafree.measuring.walks import image_walk
from tfdatafree.model.batchnorm import is_batchnorm, on_channels
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import Mismatch
from tfdatafree.numerics.metrics import normal_divergence

# So many inputs tell it well enough: all but the last layers read each of them at many places.
MOST_MEASURED = 8
# Channels with this part of the median variance are dead.
_DEAD = 1e-4


def measure_mismatch(graph: Graph, inputs: Sequence[np.ndarray]) -> Mismatch | None:
    """The mismatch of `inputs` at every BatchNorm of an unfolded graph; None where there is none.

    Args:
        inputs: One array (n, *shape) per input of the graph. The first 8 are used.
    """
    readers = {
        node.inputs[0]: node for node in graph.nodes if is_batchnorm(graph.layer_of(node)) and on_channels(graph, node)
    }
    if not readers:
        return None
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = dict.fromkeys(readers, 0)
    for tensor, values in image_walk(graph.up_to(list(readers)), [array[:MOST_MEASURED] for array in inputs]):
        if tensor in readers:
            rows = values.reshape(-1, values.shape[-1])
            means = rows.mean(axis=0, dtype=np.float64), np.einsum("rc,rc->c", rows, rows) / np.float64(len(rows))
            sums[tensor] = sums.get(tensor, 0.0) + len(rows) * np.stack(means)
            counts[tensor] += len(rows)
    nats = {}
    for tensor, node in readers.items():
        layer = graph.layer_of(node)
        stored_mean = layer.required_weight("moving_mean").astype(np.float64)
        stored = layer.required_weight("moving_variance").astype(np.float64)
        alive = stored > _DEAD * np.median(stored)
        mean, square = sums[tensor] / counts[tensor]
        epsilon = layer.operation.epsilon
        variance = np.maximum(square - mean**2, 0)
        divergence = normal_divergence(mean, variance + epsilon, stored_mean, stored + epsilon)
        nats[node.name] = float(divergence[alive].mean()) if alive.any() else 0.0
    return Mismatch(nats)
