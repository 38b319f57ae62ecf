"""Weights onto their integer grids, and the shift of each output's mean that this causes taken back by the bias.

W_q = S * clip(round(W / S)), to nearest, with error feedback (`feedback.py`) or learned (`adaround.py`);
one S per output channel (or per tensor), S = max|W| / (2^(bits-1) - 1); asymmetric (simulated only): from min W to max W;
below 8 bits what feedback found, integers and S, is improved in turns (`descent.py`)
b  -= (W_q - W) E[x]                                                        (Nagel et al. 2019, section 4.2, analytic)
so that the mean of every output channel over inputs of mean E[x] is that of the float layer.
"""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from tfdatafree.at_work import report_layer
from tfdatafree.generators.patches import covariance_of_scaled
from tfdatafree.graph import Graph, Layer
from tfdatafree.linear import from_output_last, kernel_of, layout_of, mean_response, output_last, with_kernel
from tfdatafree.numerics.affine import Quantizer, asymmetric_weight_quantizer, weight_quantizer
from tfdatafree.optimizers.adaround import round_adaptively
from tfdatafree.optimizers.descent import descend
from tfdatafree.optimizers.feedback import round_with_feedback
from tfdatafree.optimizers.importance import channel_importance
from tfdatafree.optimizers.weight_ranges import search_scale
from tfdatafree.visitors.assumption_free import equalize_assumption_free, fold_buffers
from tfdatafree.visitors.fold_batchnorm import with_bias

# Bits with which error feedback alone leaves nothing that is worth its time.
_FINE = 8


@dataclass(frozen=True)
class IntegerKernel:
    """Integers of a layer's kernel as (anything, output channel) with the quantizer along axis 1 (or per tensor)."""

    values: np.ndarray
    quantizer: Quantizer


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


def kernel_grids(
    graph: Graph, kernels: Mapping[str, IntegerKernel], written: Mapping[str, Quantizer]
) -> dict[str, Quantizer | None]:
    """Layer key -> the grid that its kernel in `graph` lies on, along the axes that Keras has; None where no single axis
    does: several steps per input channel of a depthwise kernel, or factors on both sides of an equalized one.

    Args:
        written: Layer key -> the grid along the file's axes, where steps may have been raised to hold a bias.
    """
    found: dict[str, Quantizer | None] = {}
    for key, integers in kernels.items():
        layout, kernel = layout_of(graph.layers[key]), kernel_of(graph.layers[key])
        grid = dataclasses.replace(integers.quantizer, scale=written.get(key, integers.quantizer).scale)
        if grid.channel_axis is not None:
            axis = {"transpose": -2, "depthwise": -1 if kernel.shape[-2] == 1 else -2}.get(layout.kind, -1)
            grid = dataclasses.replace(grid, channel_axis=axis % kernel.ndim)
        fits = grid.channel_axis is None or kernel.shape[grid.channel_axis] == np.size(grid.scale)
        found[key] = grid if fits and np.array_equal(grid(kernel), kernel) else None
    return found


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
    equalized, buffers, _, kept = equalize_assumption_free(graph)
    scaled = {key: covariance_of_scaled(covariance, buffers[key][0]) for key, covariance in (covariances or {}).items()}
    student, kernels = quantize_weights(equalized, covariances=scaled, **options)
    return fold_buffers(student, buffers), kernels, kept


def correct_biases(graph: Graph, teacher: Graph, means: Mapping[str, np.ndarray]) -> tuple[Graph, dict[str, str]]:
    """Analytic bias correction of every layer whose input's mean is known.

    Args:
        graph: The graph with rounded kernels.
        teacher: The same graph with the float kernels.
        means: Tensor -> mean per channel of the float network, shape (channels,).

    Returns:
        The corrected graph, and {layer key: why it was left alone}.
    """
    graph, kept = graph.copy(), {}
    calls = graph.calls()
    for node in graph.nodes:
        layer = graph.layer_of(node)
        if layout_of(layer) is None:
            continue
        mean = means.get(node.inputs[0])
        if calls[node.layer] > 1:
            kept[node.layer] = "it is shared by several calls, whose inputs differ"
        elif mean is None:
            kept[node.layer] = "the mean of its input is not known"
        else:
            change = kernel_of(layer) - kernel_of(teacher.layers[node.layer])
            shift = mean_response(layer, change, mean)
            bias = layer.weight("bias")
            graph.layers[node.layer] = with_bias(
                layer, graph.specs[node.inputs[0]].shape, -shift if bias is None else bias - shift
            )
    return graph, kept
