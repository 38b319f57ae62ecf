"""Finds the range of a model's real inputs when the user does not give it.

A Rescaling or Normalization layer at the input tells it. Otherwise the statistics of the first BatchNormalization tell it. They
are the mean and variance of the layer before it on real inputs. Procedural images in each common range pass through this layer.
The range whose images reproduce the statistics best is taken (smallest Kullback-Leibler divergence between Gaussians). If no
common range fits, all [-2^k, 2^k] and [0, 2^k] are compared, too.
"""

import keras
import numpy as np

from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.model.batchnorm import is_batchnorm, on_channels
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRange

# Common ranges of image and audio pipelines: [0, 1], [-1, 1], 8-bit, 8-bit less its mean, and
# (x - mean) / sd of ImageNet.
COMMON_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-128.0, 128.0), (-2.12, 2.64))
# If no common range comes within this many nats of the stored statistics, ranges of any size are tried.
_FITS = 1.0
_OTHER_HIGHS = 2.0 ** np.arange(-4, 11)
_IMAGES = 8


def check_input_range(input_range) -> InputRange:
    """The user's (low, high). Raises ValueError unless both are finite and low < high."""
    try:
        low, high = (float(end) for end in input_range)
    except (TypeError, ValueError):
        raise ValueError(f"input_range is {input_range!r}; give two numbers (low, high), e.g. (-1, 1).") from None
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"input_range is ({low:g}, {high:g}); low and high must be finite, and low < high.")
    return InputRange(low, high, "given")


def find_input_range(graph: Graph, seed: int = 0) -> InputRange:
    """The range of the first input of an unfolded, separated graph."""
    first = graph.inputs[0]
    consumers = graph.consumers()[first]
    for node in consumers:
        operation = graph.operation_of(node)
        if isinstance(operation, keras.layers.Rescaling):
            return InputRange(0.0, 255.0, f"from the Rescaling layer '{node.name}', which takes 8-bit values")
        if isinstance(operation, keras.layers.Normalization):
            mean, sd = np.asarray(operation.mean), np.sqrt(np.asarray(operation.variance))
            low, high = float((mean - 3 * sd).min()), float((mean + 3 * sd).max())
            return InputRange(low, high, f"from the Normalization layer '{node.name}': mean +- 3 standard deviations")
    batchnorm = _first_batchnorm(graph)
    if batchnorm is None:
        return InputRange(-1.0, 1.0, "assumed: no layer of the model tells; pass input_range=(low, high)")
    divergence = {limits: _divergence(graph, batchnorm, limits, seed) for limits in COMMON_RANGES}
    if min(divergence.values()) > _FITS:
        others = [limits for high in _OTHER_HIGHS.tolist() for limits in ((-high, high), (0.0, high))]
        divergence |= {limits: _divergence(graph, batchnorm, limits, seed) for limits in others}
    low, high = min(divergence, key=divergence.__getitem__)
    return InputRange(
        low, high, f"estimated from the statistics of '{batchnorm.name}'; pass input_range if you know it"
    )


def _first_batchnorm(graph: Graph):
    """The first BatchNorm that reads only what comes from the first input; None if there is none."""
    reached = {graph.inputs[0]}
    for node in graph.nodes:
        if not reached.issuperset(node.inputs):
            continue
        if is_batchnorm(graph.layer_of(node)) and on_channels(graph, node):
            return node
        reached.update(node.outputs)
    return None


def _divergence(graph: Graph, batchnorm, input_range: tuple[float, float], seed: int) -> float:
    """Mean KL(N(measured) || N(stored)) over the channels that enter `batchnorm`."""
    spec = graph.specs[graph.inputs[0]]
    images = procedural_images(_IMAGES, spec.example_shape, *input_range, seed=seed)
    live = {graph.inputs[0]: images}
    for node in graph.nodes:
        if node is batchnorm:
            break
        if live.keys() >= set(node.inputs):
            live.update(zip(node.outputs, graph.call(node, live), strict=True))
    x = np.asarray(live[batchnorm.inputs[0]]).reshape(-1, graph.specs[batchnorm.inputs[0]].size(-1))
    layer = graph.layer_of(batchnorm)
    stored_mean, stored_variance = layer.weight("moving_mean"), layer.weight("moving_variance")
    floor = layer.operation.epsilon
    mean, variance = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
    ratio = (variance + floor) / (stored_variance + floor)
    return float(np.mean(ratio - 1 - np.log(ratio) + np.square(mean - stored_mean) / (stored_variance + floor)) / 2)
