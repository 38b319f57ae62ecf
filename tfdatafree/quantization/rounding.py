"""Weights onto their integer grids, and the shift of each output's mean that this causes taken back by the bias.

W_q = S * clip(round(W / S)), to nearest, with error feedback (`feedback.py`) or learned (`adaround.py`);
one S per output channel (or per tensor), S = max|W| / (2^(bits-1) - 1); asymmetric (simulated only): from min W to max W;
below 8 bits what feedback found, integers and S, is improved in turns (`descent.py`)
b  -= (W_q - W) E[x]                                                        (Nagel et al. 2019, section 4.2, analytic)
so that the mean of every output channel over inputs of mean E[x] is that of the float layer.
"""

from collections.abc import Collection, Mapping

import numpy as np

from tfdatafree.activity import report_layer
from tfdatafree.measuring.importance import channel_importance
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import from_output_last, kernel_of, layout_of, output_last, with_kernel
from tfdatafree.numerics.affine import asymmetric_weight_quantizer, weight_quantizer
from tfdatafree.numerics.second_moment import covariance_of_scaled
from tfdatafree.preconditioning.assumption_free import equalize_assumption_free, fold_buffers
from tfdatafree.quantization.adaround import round_adaptively
from tfdatafree.quantization.descent import descend
from tfdatafree.quantization.feedback import round_with_feedback
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.quantization.weight_steps import search_scale

# Bits with which error feedback alone leaves nothing that is worth its time.
_FINE = 8


def round_kernel(
    layer: Layer,
    *,
    bits: int,
    per_channel: bool,
    symmetric: bool = True,
    covariance: np.ndarray | None = None,
    adaptive: bool = False,
    kept: np.ndarray | None = None,
    search: bool = False,
    importance: np.ndarray | None = None,
) -> IntegerKernel:
    """Integers of the layer's kernel: the nearest, or where the input's covariance is known with regard to it.

    Args:
        adaptive: Learn the rounding (AdaRound) in place of error feedback.
        kept: Pruned kernels: False where the weight has to be 0, shape of `output_last`. (Rounding to nearest keeps
            zeros by itself.)
        search: Choose the step by the error in the layer's output, not by the largest weight.
        importance: Weight of each output's error, (outputs,), in a search for one step per tensor.
    """
    matrix = output_last(kernel_of(layer), layout_of(layer))
    quantizer = (weight_quantizer if symmetric else asymmetric_weight_quantizer)(
        matrix, bits, 1 if per_channel else None
    )
    if covariance is None:
        return IntegerKernel(quantizer.quantize(matrix), quantizer)
    if search:
        quantizer = search_scale(matrix, covariance, quantizer, importance)
    if adaptive:
        rounded = round_adaptively(matrix, covariance, quantizer)
        rounded = rounded if kept is None else np.where(kept, rounded, quantizer.zero_point).astype(rounded.dtype)
    else:
        rounded = round_with_feedback(matrix, covariance, quantizer, kept=kept)
        if bits < _FINE:
            rounded, quantizer = descend(rounded, matrix, covariance, quantizer, kept=kept, new_steps=per_channel)
    return IntegerKernel(rounded, quantizer)


def quantize_weights(
    graph: Graph,
    *,
    bits: int,
    per_channel: bool,
    dense_per_channel: bool | None = None,
    symmetric: bool = True,
    covariances: Mapping[str, np.ndarray] | None = None,
    adaptive: bool = False,
    masks: Mapping[str, np.ndarray] | None = None,
    search: bool = False,
    variances: Mapping[str, np.ndarray] | None = None,
    layer_bits: Mapping[str, int] | None = None,
    in_float: Collection[str] = (),
) -> tuple[Graph, dict[str, IntegerKernel]]:
    """The graph with every kernel on its grid, and the integers by layer key.

    Args:
        bits: Of every kernel that `layer_bits` does not list.
        per_channel: One step per output channel; `dense_per_channel`: the same for dense layers, None: as the others.
        symmetric: Zero point 0, as TFLite wants; False for simulations of grids from the smallest to the largest weight.
        covariances: Layer key -> covariance of its input patches, (groups, inputs, inputs); these layers are rounded
            with error feedback, the others to nearest.
        adaptive: Learn the rounding (AdaRound) in place of error feedback.
        masks: Pruned layers: which weights stay, (rows, outputs) as in `linear.output_last`; the others stay 0.
        search: Choose steps by the error in the layer's output, where its input's covariance is known.
        variances: Tensor -> variance per channel; tells a search for one step per tensor which outputs matter.
        layer_bits: Layer key -> bits of its kernel.
        in_float: Layers whose kernels stay as they are.
    """
    layer_bits = layer_bits or {}
    covariances, masks = covariances or {}, masks or {}
    dense_per_channel = per_channel if dense_per_channel is None else dense_per_channel
    ahead = channel_importance(graph, variances or {}) if search and not (per_channel and dense_per_channel) else {}
    outputs = {node.layer: node.output for node in reversed(graph.nodes)}
    graph, kernels = graph.copy(), {}
    for at, (key, layer) in enumerate(graph.layers.items()):
        layout = layout_of(layer)
        if layout is None or key in in_float:
            continue
        report_layer(key, at / len(graph.layers))
        kernels[key] = round_kernel(
            layer,
            bits=layer_bits.get(key, bits),
            per_channel=dense_per_channel if layout.kind == "dense" else per_channel,
            symmetric=symmetric,
            covariance=covariances.get(key),
            adaptive=adaptive,
            kept=masks.get(key),
            search=search,
            importance=ahead.get(outputs[key]),
        )
        rounded = kernels[key].quantizer.dequantize(kernels[key].values)
        graph.layers[key] = with_kernel(layer, from_output_last(rounded, kernel_of(layer).shape, layout))
    return graph, kernels


def quantize_equalized_weights(
    graph: Graph, *, covariances: Mapping[str, np.ndarray] | None = None, **options
) -> tuple[Graph, dict[str, IntegerKernel], dict[str, str]]:
    """`quantize_weights` between the buffers of assumption-free equalization, which are folded back in afterwards.

    Each kernel is v_o W_q v_i: one step per tensor times a factor per channel. (graph, integers of W_q, why pairs of layers
    were not equalized.)
    """
    free = equalize_assumption_free(graph)
    buffers = free.buffers
    scaled = {key: covariance_of_scaled(covariance, buffers[key][0]) for key, covariance in (covariances or {}).items()}
    student, kernels = quantize_weights(free.graph, covariances=scaled, **options)
    return fold_buffers(student, buffers), kernels, dict(free.kept)
