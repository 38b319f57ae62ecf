"""Layer inputs without data, from BatchNorm statistics alone.

A BatchNorm's output has mean beta and standard deviation sd = |gamma| sqrt(v / (v + eps)), so the input of layer i is

    G_i = sum over the branches j that feed it of f_j(N(beta_j, sd_j^2))                 (Horton et al. 2021, eq. 10-12)

One pass computes samples of every tensor, with one row per sample and one column per channel. It applies the graph's own
operations (activations, Add, Concatenate, Multiply ...) to tensors with a single pixel. Where whole feature maps of such pixels
would have other means (after a softmax or a variance over positions), it takes the values of a few maps. The samples are
stratified quantiles of the normal distribution, shuffled per channel. So channels are independent, and their means are exact to
within 1 / n. If no BatchNorm follows a convolution, its output is normal. Its moments follow from the kernel and the moments of
the input (in the paper: N(0, 1), `unknown="standard"`).

Pixels and channels are independent here, but real ones are not. So values after global pooling, and logits, spread too little.
Ranges there are better taken from images (`inputs/procedural.py`).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import keras
import numpy as np
from scipy import stats

from tfdatafree.model.batchnorm import is_batchnorm, on_channels, output_moments
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import find_layout, kernel_of, mean_response, variance_response
from tfdatafree.model.operations import operation_of

# Rows times columns of the largest tensor of samples; wider tensors (a flattened feature map) get fewer rows.
_MOST_VALUES = 2**22
# Channels that are drawn at once, with 64 bits per value: few enough to stay in the processor's cache.
_CHANNELS = 32
# Feature maps that tell whether one pixel behaves as many do, and the largest shift of the mean, in standard deviations.
_MAPS, _LARGEST_SHIFT = 8, 0.5


def gaussian_walk(
    graph: Graph,
    *,
    samples: int = 2000,
    seed: int = 0,
    unknown: Literal["moments", "standard"] = "moments",
    batchnorm: bool = True,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (tensor, samples (rows, channels)) for every tensor of an unfolded, separated graph, in execution order.

    Args:
        samples: Number of rows; very wide tensors get fewer.
        unknown: Output of a layer that no BatchNorm follows. "moments": normal, with moments from the kernel and the input.
            "standard": N(0, 1), as for the graph's inputs.
        batchnorm: False: N(0, 1) after every BatchNorm, too, which shows what its statistics are worth.
    """
    random = np.random.default_rng(seed)
    # All tensors have the same number of rows, so that Add adds sample to sample.
    widest = max(spec.shape[-1] or 1 for spec in graph.specs.values() if spec.shape)
    rows = max(1, min(samples, _MOST_VALUES // widest))
    quantiles = stats.norm.ppf((np.arange(rows) + 0.5) / rows)

    def normal(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
        values = np.empty((rows, len(mean)), np.float32)
        for start in range(0, len(mean), _CHANNELS):
            some = slice(start, start + _CHANNELS)
            channels = np.tile(quantiles, (len(mean[some]), 1))  # a channel lies in one piece while it is shuffled
            random.permuted(channels, axis=1, out=channels)
            channels *= sd[some, None]
            channels += mean[some, None]
            values[:, some] = channels.T
        return values

    def standard(tensor: str) -> np.ndarray:
        channels = graph.specs[tensor].shape[-1] or 1
        return normal(np.zeros(channels), np.ones(channels))

    def call(node: Node, live: Mapping[str, Any]) -> tuple:
        layer = graph.layer_of(node)
        source = live[node.inputs[0]]
        if is_batchnorm(layer):
            if not batchnorm:
                return (standard(node.output),)
            mean, sd = output_moments(layer)
            if not on_channels(graph, node):
                # Along another axis, each channel has a mixture of all the normal distributions.
                channels = graph.specs[node.output].size(-1)
                spread = np.sqrt(np.mean(np.square(sd)) + np.var(mean))
                mean, sd = np.full(channels, mean.mean()), np.full(channels, spread)
            return (normal(mean, sd),)
        if find_layout(layer) is not None:
            if unknown == "standard":
                return (standard(node.output),)
            kernel, bias = kernel_of(layer), layer.weight("bias")
            mean = mean_response(layer, kernel, source.mean(axis=0, dtype=np.float64))
            variance = variance_response(layer, kernel, source.var(axis=0, dtype=np.float64))
            return (normal(mean if bias is None else mean + bias, np.sqrt(variance)),)
        if operation_of(layer).spatial:
            return (source,)  # their effect on the distribution is left out, as in the paper
        if isinstance(layer.operation, keras.layers.Flatten):
            columns = graph.specs[node.output].size(-1) // source.shape[-1]
            return (random.permuted(np.tile(source, (1, columns)), axis=0),)
        outputs = _on_one_pixel(graph, node, live, standard)
        return _unless_positions_matter(graph, node, live, outputs, seed)

    inputs = [standard(tensor) for tensor in graph.inputs]
    yield from zip(graph.inputs, inputs, strict=True)
    for node, live in graph.walk(inputs, call):
        for tensor in node.outputs:
            yield tensor, live[tensor]


def _on_one_pixel(graph: Graph, node: Node, live: Mapping[str, Any], standard) -> tuple:
    """The node's own operation on tensors with one pixel; N(0, 1) where it does not work on those."""
    pixels = {}
    for tensor in node.inputs:
        rank = len(graph.specs[tensor].shape)
        value = live[tensor]
        pixels[tensor] = value.reshape(len(value), *[1] * (rank - 2), -1) if rank > 1 else value[:, 0]
    outputs = []
    try:
        results = graph.call(node, pixels)
    except Exception:  # a reshape, a slice beyond the one pixel or an operation that mixes rows is no error
        results = (None,) * len(node.outputs)
    rows = len(live[node.inputs[0]])
    for tensor, result in zip(node.outputs, results, strict=True):
        channels = graph.specs[tensor].shape[-1] or 1
        fits = result is not None and np.size(result) == rows * channels
        outputs.append(np.asarray(result).reshape(rows, channels) if fits else standard(tensor)[:rows])
    return tuple(outputs)


def _unless_positions_matter(
    graph: Graph, node: Node, live: Mapping[str, Any], on_one_pixel: tuple, seed: int
) -> tuple:
    """`on_one_pixel`, or values from whole feature maps where these have other means."""
    known = operation_of(graph.layer_of(node))
    specs = [graph.specs[tensor] for tensor in node.inputs]
    small = all(len(spec.shape) < 3 or None in spec.shape[1:] for spec in specs)
    if small or known.channels in ("apart", "joined") or known.values is not None or known.joins:
        return on_one_pixel
    shapes = [spec.example_shape for spec in specs]
    random = np.random.default_rng([seed, graph.nodes.index(node)])
    count = max(1, min(_MAPS, _MOST_VALUES // max(math.prod(shape) for shape in shapes)))
    maps = {}
    for tensor, shape in zip(node.inputs, shapes, strict=True):
        rows = random.integers(len(live[tensor]), size=(count, *shape[:-1]))
        maps[tensor] = np.asarray(live[tensor])[rows].reshape(count, *shape)
    try:
        results = graph.call(node, maps)
    except Exception:  # of any layer
        return on_one_pixel
    outputs = []
    for result, one in zip(results, on_one_pixel, strict=True):
        pixels = np.asarray(result, np.float32).reshape(-1, one.shape[-1])
        spread = np.maximum(pixels.std(axis=0), one.std(axis=0)).mean()
        differs = np.abs(pixels.mean(axis=0) - one.mean(axis=0)).mean() > _LARGEST_SHIFT * spread
        outputs.append(pixels[random.integers(len(pixels), size=len(one))] if differs else one)
    return tuple(outputs)
