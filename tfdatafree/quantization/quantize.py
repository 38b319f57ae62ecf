"""Float graph and what is known of its tensors in; rounded kernels, corrected biases and a range per tensor out."""

import functools
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdatafree.inputs.input_range import InputRange
from tfdatafree.measuring.observe import Observed
from tfdatafree.measuring.walks import normalized_walk
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.activation_ranges import between, choose_ranges, widest, within_caps
from tfdatafree.quantization.activation_shift import activation_shifts, correct_activation_shifts
from tfdatafree.quantization.bias import correct_biases
from tfdatafree.quantization.empirical_bias import correct_biases_on_inputs
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.quantization.placement import layers_in_float, simulated_grids
from tfdatafree.quantization.ranges import of_levels
from tfdatafree.quantization.rounding import quantize_equalized_weights, quantize_weights
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.rules import NO_RULES, LayerRules


@dataclass(frozen=True)
class Quantized:
    """A graph that is ready to be written.

    Attributes:
        graph: Kernels on their grids, biases corrected.
        kernels: Layer key -> integers of its kernel.
        ranges: Tensor -> range.
        kept: Layer -> what was not done to it, and why.
    """

    graph: Graph
    kernels: dict[str, IntegerKernel]
    ranges: dict[str, Range]
    kept: dict[str, str]


def quantize(
    teacher: Graph,
    unfolded: Graph,
    masks: Mapping[str, np.ndarray],
    observed: Observed,
    inputs: list[np.ndarray],
    given: dict[str, Range],
    options: Quantize,
    executor: Executor | None = None,
    rules: LayerRules = NO_RULES,
) -> Quantized:
    """Rounds the weights of `teacher`, takes the shifts out of its biases, and chooses ranges.

    Args:
        teacher: The folded float graph, pruned or not.
        unfolded: The same with its BatchNorms.
        masks: Pruned layers: which weights stay.
        observed: What was seen of the tensors without data.
        inputs: Generated (or representative) inputs.
        given: Ranges that are known: those of the inputs.
        rules: What single layers get.
    """
    student, kernels, apart = round_weights(teacher, masks, observed, options, rules)
    kept = {name: f"not equalized: {reason}" for name, reason in apart.items()}
    if options.bias_correction:
        if options.bias_correction == "empirical":
            student, uncorrected = correct_biases_on_inputs(student, teacher, inputs)
        else:
            student, uncorrected = correct_biases(student, teacher, observed.means)
        kept |= {key: f"bias not corrected: {reason}" for key, reason in uncorrected.items()}
    ranges = tensor_ranges(teacher, observed, options, executor) | given
    if options.activation_correction:
        grids = simulated_grids(student, ranges, options.activation_bits, rules)
        shifts = activation_shifts(normalized_walk(unfolded, inputs), grids)
        student, uncorrected = correct_activation_shifts(student, shifts)
        kept |= {key: f"activation shift not corrected: {reason}" for key, reason in uncorrected.items()}
    return Quantized(student, kernels, ranges, kept)


def needs_moments(options: Quantize) -> bool:
    """Whether the channels' means and variances on the inputs are read: see `observe`."""
    return options.ranges == "k_sigma" or options.weight_ranges == "search"


def round_weights(
    teacher: Graph,
    masks: Mapping[str, np.ndarray],
    observed: Observed,
    options: Quantize,
    rules: LayerRules = NO_RULES,
) -> tuple[Graph, dict[str, IntegerKernel], dict[str, str]]:
    """(the graph with rounded kernels, their integers, why layers were not equalized before rounding)."""
    how: dict[str, Any] = {
        "bits": options.weight_bits,
        "per_channel": options.one_step_per_channel(dense=False),
        "dense_per_channel": options.one_step_per_channel(dense=True),
        "symmetric": options.symmetric_weights,
        "covariances": None if options.rounding == "nearest" else observed.covariances,
        "adaptive": options.rounding == "adaround",
        "masks": masks,
        "search": options.weight_ranges == "search",
        "layer_bits": rules.setting("weight_bits"),
        "in_float": layers_in_float(teacher, rules),
        "variances": observed.variances,
    }
    if options.equalized_rounding:
        return quantize_equalized_weights(teacher, **how)
    return *quantize_weights(teacher, **how), {}


def tensor_ranges(graph: Graph, observed: Observed, options: Quantize, executor: Executor | None) -> dict[str, Range]:
    """One range per tensor; from images, between those of the images as they are and put right.

    Decisions get the wider of the two: an output that saturates is lost, one that is too coarse only noisy.
    """
    sources = [observed.images, observed.normalized] if options.range_source == "images" else [observed.gaussian]
    estimates = [
        choose_ranges(graph, source, options.ranges, bits=options.activation_bits, executor=executor)
        for source in sources
    ]
    ranges = functools.reduce(between, estimates)
    widened = functools.reduce(widest, estimates)
    ranges |= {tensor: widened[tensor] for tensor in decision_tensors(graph) if tensor in widened}
    return within_caps(graph, ranges)


def input_ranges(
    graph: Graph, found: InputRange, observed: Observed, options: Quantize, from_user: bool
) -> dict[str, Range]:
    """The input tensors' ranges: what the user or the model says, or the extremes of the user's own inputs."""
    if from_user and found.origin != "given":
        return {tensor: Range(observed.images[tensor].low, observed.images[tensor].high) for tensor in graph.inputs}
    given = of_levels(found.low, found.high) if options.activation_bits == 8 else Range(found.low, found.high)
    return dict.fromkeys(graph.inputs, given)
