"""Measures how much each output channel of a layer matters for the results, by one backward pass over generated inputs.

    g_c = E sum over pixels (d (r . y) / d z_c)^2 / E ||y||^2,     r random signs, so that E (r . dy)^2 = ||dy||^2

z is the layer's output. y are the model's results before softmax, without the mean of their last axis. An error of variance e
in channel c, independent from pixel to pixel, changes y by g_c e of its energy. So g_c accounts for inactive ReLUs, for small
kernels in later layers, and for sums that another branch dominates. The images pass with every BatchNorm's statistics restored
(`walks.normalized_walk`), so that activations are on as often as on real inputs.
                                             (the diagonal of a Gauss-Newton matrix; Hutchinson 1989 for the random signs)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.measuring.walks import Draw, normalized_batch_size, standardize
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.differentiable import differentiable
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import find_layout

_IMAGES, _BATCH, _PROJECTIONS = 32, 2, 4


def channel_sensitivities(
    unfolded: Graph, folded: Graph, results: list[str], draw: Draw, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """Layer key -> g (output channels,), float64, of each layer with a kernel in `folded`; {} where there are no gradients.

    Args:
        unfolded: The separated graph with its BatchNorms; tensors of equal name hold equal values.
        results: Tensors of both graphs to watch.
        draw: Makes the generated inputs, batch after batch.
    """
    written = {node.output: node.layer for node in folded.nodes if find_layout(folded.layer_of(node))}
    graph = differentiable(unfolded.up_to(results))
    random = np.random.default_rng(seed)
    # All activations stay in memory for the backward pass.
    batch = max(1, min(_BATCH, normalized_batch_size(unfolded)))
    sums: dict[str, np.ndarray] = {}
    energy = 0.0
    for start in range(0, _IMAGES, batch):
        inputs = draw(batch, seed + start)
        seen: dict[str, tf.Tensor] = {}
        with tf.GradientTape(persistent=True) as tape:
            watched = [tf.convert_to_tensor(array) for array in inputs]
            for array in watched:
                if array.dtype.is_floating:
                    tape.watch(array)
            projections, size = _projected(graph, watched, written, seen, random)
        energy += size
        for projection in projections:
            for tensor, gradient in zip(seen, tape.gradient(projection, list(seen.values())), strict=True):
                if gradient is not None:
                    squares = np.square(tf.convert_to_tensor(gradient).numpy().astype(np.float64))
                    channels = squares.reshape(-1, squares.shape[-1]).sum(axis=0)
                    sums[written[tensor]] = sums.get(written[tensor], 0) + channels / _PROJECTIONS
        del tape
    return {key: total / max(energy, 1e-30) for key, total in sums.items()}


def _projected(
    graph: Graph,
    inputs: list[tf.Tensor],
    written: Mapping[str, str],
    seen: dict[str, tf.Tensor],
    random: np.random.Generator,
) -> tuple[list[tf.Tensor], float]:
    """(sums of the results times random signs, the results' energy). Puts the kernels' outputs into `seen`."""

    def call(node: Node, live: Mapping[str, Any]) -> tuple:
        layer = graph.layer_of(node)
        if is_batchnorm(layer):
            outputs = (standardize(layer, live[node.inputs[0]], constant=True),)
        else:
            outputs = graph.call(node, live)
        if node.output in written:
            seen[node.output] = outputs[0]
        return outputs

    results: dict[str, tf.Tensor] = {}
    for node, live in graph.walk(inputs, call):
        results.update((tensor, live[tensor]) for tensor in node.outputs if tensor in graph.outputs)
    projections, energy = [], 0.0
    centred = [y - tf.reduce_mean(y, -1, keepdims=True) if y.shape[-1] > 1 else y for y in results.values()]
    energy = float(sum(tf.reduce_sum(tf.square(y)) for y in centred))
    for _ in range(_PROJECTIONS):
        signs = [random.choice(np.array([-1, 1], np.float32), size=y.shape) for y in centred]
        projections.append(tf.add_n([tf.reduce_sum(y * sign) for y, sign in zip(centred, signs, strict=True)]))
    return projections, energy
