"""Rounds kernels to their integer grids.

W_q = S * clip(round(W / S)),      S = max|W| / (2^(bits-1) - 1)      one S per output channel, or per tensor

Rounding is to nearest, with error feedback (`feedback.py`), or learned (`adaround.py`). Below 8 bits, `descent.py` improves
the integers and scales of error feedback. Asymmetric grids, from min W to max W, can only be simulated. Pruned weights stay 0,
so that every kernel is S times integers of its width. `bias.py` corrects the shift of the mean that rounding causes.
"""

import dataclasses
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from tfdatafree.activity import report_layer
from tfdatafree.canonical.assumption_free import equalize_assumption_free, fold_buffers
from tfdatafree.errors import UnsupportedModelError
from tfdatafree.measuring.importance import channel_importance
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import find_layout, kernel_of, layout_of, output_last, with_kernel
from tfdatafree.numerics.affine import asymmetric_weight_quantizer, weight_quantizer
from tfdatafree.numerics.second_moment import covariance_of_scaled
from tfdatafree.quantization.adaround import round_adaptively
from tfdatafree.quantization.descent import descend
from tfdatafree.quantization.feedback import round_with_feedback
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.quantization.weight_scales import search_scale

# From this number of bits on, error feedback alone is good enough.
_FINE = 8
# Kernels that are rounded at the same time: one of them takes one core most of the time.
_AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How the kernels of a graph are rounded.

    Attributes:
        bits: Bits of every kernel that `layer_bits` does not list.
        per_channel: One scale per output channel.
        dense_per_channel: The same for dense layers; None: as `per_channel`.
        symmetric: Zero point 0, as TFLite requires. False for simulated grids from the smallest to the largest weight.
        adaptive: Learn the rounding (AdaRound) instead of error feedback.
        search: Choose scales by the error of the layer's output, if its input's covariance is known.
        layer_bits: Layer -> bits of its kernel.
        in_float: Layers whose kernels are not rounded.
        masks: Pruned layer -> which weights stay, (rows, outputs) as in `model.kernels.output_last`; the others stay 0.
        covariances: Layer -> covariance of its input patches, (groups, inputs, inputs). Layers without one are rounded to
            nearest.
        variances: Tensor -> variance per channel, from which a search for one scale per tensor computes the importance of
            outputs.
    """

    bits: int = 8
    per_channel: bool = True
    dense_per_channel: bool | None = None
    symmetric: bool = True
    adaptive: bool = False
    search: bool = False
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    in_float: Collection[str] = ()
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    covariances: Mapping[str, np.ndarray] = field(default_factory=dict)
    variances: Mapping[str, np.ndarray] = field(default_factory=dict)

    def scale_per_channel(self, kind: str) -> bool:
        """Whether a kernel of this kind of layout has one scale per output channel."""
        return self.per_channel if kind != "dense" or self.dense_per_channel is None else self.dense_per_channel


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A graph with kernels on their grids.

    Attributes:
        graph: The graph.
        kernels: Layer -> integers of its kernel.
        reasons: Layer -> why it was not equalized before rounding.
    """

    graph: Graph
    kernels: dict[str, IntegerKernel]
    reasons: Mapping[str, str] = field(default_factory=dict)


def round_graph(graph: Graph, rounding: Rounding) -> Rounded:
    """Rounds every kernel of the graph to its grid."""
    importance: Mapping[str, np.ndarray] = {}
    if rounding.search and not (rounding.per_channel and rounding.scale_per_channel("dense")):
        importance = channel_importance(graph, rounding.variances)
    first, graph = graph.first_calls(), graph.copy()
    keys = [
        key for key, layer in graph.layers.items() if find_layout(layer) is not None and key not in rounding.in_float
    ]

    def rounded(key: str) -> IntegerKernel:
        return round_kernel(key, graph.layers[key], rounding, importance.get(first[key].output))

    kernels = {}
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for at, (key, kernel) in enumerate(zip(keys, threads.map(rounded, keys), strict=True)):
            report_layer(key, at / len(keys))
            kernels[key] = kernel
    graph.layers |= {key: with_kernel(graph.layers[key], kernel.float_kernel) for key, kernel in kernels.items()}
    return Rounded(graph=graph, kernels=kernels)


def round_kernel(key: str, layer: Layer, rounding: Rounding, importance: np.ndarray | None = None) -> IntegerKernel:
    """Rounds the layer's kernel: to nearest, or with the covariance of its input if that is known.

    Args:
        key: The layer's name in the graph.
        importance: Weight of each output's error, (outputs,), in a search for one scale per tensor.
    """
    bits = rounding.layer_bits.get(key, rounding.bits)
    per_channel = rounding.scale_per_channel(layout_of(layer).kind)
    covariance, mask = rounding.covariances.get(key), rounding.masks.get(key)
    matrix = output_last(kernel_of(layer), layout_of(layer))
    if not np.isfinite(matrix).all():
        raise UnsupportedModelError(
            f"the kernel of '{key}' has NaN or infinite values after BatchNorms are folded into it: its weights, or those of the "
            "BatchNormalization next to it, are too large. Use a sound checkpoint."
        )
    make_grid = weight_quantizer if rounding.symmetric else asymmetric_weight_quantizer
    grid = make_grid(matrix, bits, 1 if per_channel else None)
    if covariance is None:
        return IntegerKernel.of(layer, grid.quantize(matrix), grid)  # 0 stays 0 without a mask
    if rounding.search:
        grid = search_scale(matrix, covariance, grid, importance)
    if rounding.adaptive:
        integers = round_adaptively(matrix, covariance, grid)
        integers = integers if mask is None else np.where(mask, integers, grid.zero_point).astype(integers.dtype)
    else:
        integers = round_with_feedback(matrix, covariance, grid, mask=mask)
        if bits < _FINE:
            integers, grid = descend(integers, matrix, covariance, grid, mask=mask, new_scales=per_channel)
    return IntegerKernel.of(layer, integers, grid)


def round_equalized(graph: Graph, rounding: Rounding) -> Rounded:
    """`round_graph` between the buffers of assumption-free equalization, which are folded back afterwards.

    Each kernel is v_o W_q v_i: one scale per tensor times a factor per channel. The integers are those of W_q.
    """
    free = equalize_assumption_free(graph)
    buffers = free.buffers
    scaled = {
        key: covariance_of_scaled(covariance, buffers[key][0]) for key, covariance in rounding.covariances.items()
    }
    rounded = round_graph(free.graph, dataclasses.replace(rounding, covariances=scaled))
    return Rounded(graph=fold_buffers(rounded.graph, buffers), kernels=rounded.kernels, reasons=free.kept)
