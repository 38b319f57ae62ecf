"""Weights onto their integer grids, and the shift of each output's mean that this causes taken back by the bias.

W_q = S * clip(round(W / S)), to nearest, with error feedback (`feedback.py`) or learned (`adaround.py`);
one S per output channel (or per tensor), S = max|W| / (2^(bits-1) - 1); asymmetric (simulated only): from min W to max W;
below 8 bits what feedback found, integers and S, is improved in turns (`descent.py`)
b  -= (W_q - W) E[x]                                                        (Nagel et al. 2019, section 4.2, analytic)
so that the mean of every output channel over inputs of mean E[x] is that of the float layer.
"""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from tfdatafree.activity import report_layer
from tfdatafree.canonical.assumption_free import equalize_assumption_free, fold_buffers
from tfdatafree.measuring.importance import channel_importance
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import kernel_of, layout_of, output_last, with_kernel
from tfdatafree.numerics.affine import asymmetric_weight_quantizer, weight_quantizer
from tfdatafree.numerics.second_moment import covariance_of_scaled
from tfdatafree.quantization.adaround import round_adaptively
from tfdatafree.quantization.descent import descend
from tfdatafree.quantization.feedback import round_with_feedback
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.quantization.weight_steps import search_scale

# Bits with which error feedback alone leaves nothing that is worth its time.
_FINE = 8


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How the kernels of a graph are rounded.

    Attributes:
        bits: Of every kernel that `layer_bits` does not list.
        per_channel: One step per output channel.
        dense_per_channel: The same for dense layers; None: as the others.
        symmetric: Zero point 0, as TFLite wants; False for simulations of grids from the smallest to the largest weight.
        adaptive: Learn the rounding (AdaRound) in place of error feedback.
        search: Choose steps by the error in the layer's output, where its input's covariance is known.
        layer_bits: Layer -> bits of its kernel.
        in_float: Layers whose kernels stay as they are.
        masks: Pruned layer -> which weights stay, (rows, outputs) as in `model.kernels.output_last`; the others stay 0.
        covariances: Layer -> covariance of its input patches, (groups, inputs, inputs); these layers are rounded with error
            feedback, the others to nearest.
        variances: Tensor -> variance per channel; tells a search for one step per tensor which outputs matter.
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

    def steps_per_channel(self, kind: str) -> bool:
        """Whether a kernel of that kind of layout has one step per output channel."""
        return self.per_channel if kind != "dense" or self.dense_per_channel is None else self.dense_per_channel


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A graph with kernels on their grids.

    Attributes:
        graph: The graph.
        kernels: Layer -> integers of its kernel.
        reasons: Layer -> why it was not equalized before.
    """

    graph: Graph
    kernels: dict[str, IntegerKernel]
    reasons: Mapping[str, str] = field(default_factory=dict)


def round_graph(graph: Graph, rounding: Rounding) -> Rounded:
    """The graph with every kernel on its grid, and the integers."""
    importance: Mapping[str, np.ndarray] = {}
    if rounding.search and not (rounding.per_channel and rounding.steps_per_channel("dense")):
        importance = channel_importance(graph, rounding.variances)
    first, graph, kernels = graph.first_calls(), graph.copy(), {}
    for at, (key, layer) in enumerate(graph.layers.items()):
        if layout_of(layer) is None or key in rounding.in_float:
            continue
        report_layer(key, at / len(graph.layers))
        kernels[key] = round_kernel(key, layer, rounding, importance.get(first[key].output))
        graph.layers[key] = with_kernel(layer, kernels[key].float_kernel)
    return Rounded(graph=graph, kernels=kernels)


def round_kernel(key: str, layer: Layer, rounding: Rounding, importance: np.ndarray | None = None) -> IntegerKernel:
    """Integers of the layer's kernel: the nearest, or where the input's covariance is known with regard to it.

    Args:
        key: The layer's name in the graph.
        importance: Weight of each output's error, (outputs,), in a search for one step per tensor.
    """
    bits = rounding.layer_bits.get(key, rounding.bits)
    per_channel = rounding.steps_per_channel(layout_of(layer).kind)
    covariance, mask = rounding.covariances.get(key), rounding.masks.get(key)
    matrix = output_last(kernel_of(layer), layout_of(layer))
    make_grid = weight_quantizer if rounding.symmetric else asymmetric_weight_quantizer
    grid = make_grid(matrix, bits, 1 if per_channel else None)
    if covariance is None:
        return IntegerKernel.of(layer, grid.quantize(matrix), grid)  # zeros stay zeros by themselves
    if rounding.search:
        grid = search_scale(matrix, covariance, grid, importance)
    if rounding.adaptive:
        integers = round_adaptively(matrix, covariance, grid)
        integers = integers if mask is None else np.where(mask, integers, grid.zero_point).astype(integers.dtype)
    else:
        integers = round_with_feedback(matrix, covariance, grid, kept=mask)
        if bits < _FINE:
            integers, grid = descend(integers, matrix, covariance, grid, kept=mask, new_steps=per_channel)
    return IntegerKernel.of(layer, integers, grid)


def round_equalized(graph: Graph, rounding: Rounding) -> Rounded:
    """`round_graph` between the buffers of assumption-free equalization, which are folded back in afterwards.

    Each kernel is v_o W_q v_i: one step per tensor times a factor per channel. The integers are those of W_q.
    """
    free = equalize_assumption_free(graph)
    buffers = free.buffers
    scaled = {
        key: covariance_of_scaled(covariance, buffers[key][0]) for key, covariance in rounding.covariances.items()
    }
    rounded = round_graph(free.graph, dataclasses.replace(rounding, covariances=scaled))
    return Rounded(graph=fold_buffers(rounded.graph, buffers), kernels=rounded.kernels, reasons=free.kept)
