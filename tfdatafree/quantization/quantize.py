"""Quantizes a network: rounds kernels, corrects biases and chooses a range per tensor."""

import functools
from collections.abc import Mapping

import numpy as np

from tfdatafree.measuring.observe import Observed
from tfdatafree.measuring.walks import normalized_walk
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import Network
from tfdatafree.numerics.range import Range, with_room
from tfdatafree.quantization.activation_ranges import (
    between,
    choose_ranges,
    saturation,
    widest,
    within,
    within_bounds,
    within_caps,
)
from tfdatafree.quantization.activation_shift import correct_activation_shifts, measure_shifts
from tfdatafree.quantization.bias import correct_biases
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.empirical_bias import correct_biases_on_inputs
from tfdatafree.quantization.input_bounds import bounds_behind_inputs
from tfdatafree.quantization.kernel_bits import kernel_bits
from tfdatafree.quantization.placement import Placement
from tfdatafree.quantization.ranges import extreme_value, range_of_levels
from tfdatafree.quantization.rounding import Rounded, Rounding, round_equalized, round_graph
from tfdatafree.quantization.wide_tensors import wide_tensors
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.targets.registry import GENERIC
from tfdatafree.targets.target import Target


def quantize(
    network: Network,
    observed: Observed,
    inputs: list[np.ndarray],
    options: Quantize,
    *,
    known_ranges: Mapping[str, Range],
    target: Target = GENERIC,
) -> Decision:
    """Rounds the kernels of `network.current`, corrects its biases, and chooses ranges.

    Args:
        observed: Statistics of the tensors.
        inputs: Generated (or given) inputs.
        known_ranges: Ranges that need no estimate: those of the model's inputs.
    """
    current, rules = network.current, network.rules
    rounded = round_weights(network, observed, options)
    graph, reasons = rounded.graph, {name: f"not equalized: {reason}" for name, reason in rounded.reasons.items()}
    if options.bias_correction:
        if options.bias_correction == "empirical":
            graph, uncorrected = correct_biases_on_inputs(graph, current, inputs)
        else:
            graph, uncorrected = correct_biases(graph, current, observed.means)
        reasons |= {key: f"bias not corrected: {reason}" for key, reason in uncorrected.items()}
    limits, decisions = _limits(current, observed, options, known_ranges), decision_tensors(current)
    ranges = choose_tensor_ranges(current, observed, options) | dict(known_ranges)
    # Headroom is measured by the noise of decision tensors, in which clipped values do not belong.
    ranges = within(ranges, {tensor: ends for tensor, ends in limits.items() if tensor not in decisions})
    if options.activation_correction:
        grids = Placement(graph, rules, wide_tensors(graph, target)).grids(ranges, options.activation_bits)
        shifts = measure_shifts(normalized_walk(network.unfolded, inputs), grids)
        graph, uncorrected = correct_activation_shifts(graph, shifts)
        reasons |= {key: f"activation shift not corrected: {reason}" for key, reason in uncorrected.items()}
    return Decision(
        graph=graph,
        reference=network.reference,
        kernels=rounded.kernels,
        ranges=ranges,
        limits=limits,
        real=observed.real,
        options=options,
        rules=rules,
        target=target,
        reasons=reasons,
        about=network.about,
    )


def needs_moments(options: Quantize) -> bool:
    """Whether `quantize` reads the channels' means and variances on the inputs (see `observe`)."""
    return options.ranges == "k_sigma" or options.weight_ranges == "search"


def round_weights(network: Network, observed: Observed, options: Quantize) -> Rounded:
    """Rounds every kernel of `network.current` to its grid."""
    graph, rules = network.current, network.rules
    rounding = Rounding(
        bits=options.weight_bits,
        per_channel=options.one_step_per_channel(dense=False),
        dense_per_channel=options.one_step_per_channel(dense=True),
        symmetric=options.symmetric_weights,
        adaptive=options.rounding == "adaround",
        search=options.weight_ranges == "search",
        layer_bits=kernel_bits(graph, options, rules.setting("weight_bits")),
        in_float=Placement(graph, rules).float_layers,
        masks=network.masks,
        covariances={} if options.rounding == "nearest" else observed.covariances,
        variances=observed.variances,
    )
    return round_equalized(graph, rounding) if options.equalized_rounding else round_graph(graph, rounding)


def choose_tensor_ranges(graph: Graph, observed: Observed, options: Quantize) -> dict[str, Range]:
    """One range per tensor. From images, it lies between two estimates: with and without restored BatchNorm statistics.

    Decision tensors get the wider of two extremes. A saturated output loses the decision, but a coarse one is only noisy.
    Whatever real inputs showed is in the range. 16 bits have levels enough for four times the range.
    """
    sources = [observed.images, observed.normalized] if options.range_source == "images" else [observed.gaussian]
    estimates = [choose_ranges(graph, source, options.ranges, bits=options.activation_bits) for source in sources]
    ranges = functools.reduce(between, estimates)
    if options.ranges != "extreme_value":
        widened = functools.reduce(widest, estimates)
        ranges |= {tensor: widened[tensor] for tensor in decision_tensors(graph) if tensor in widened}
    elif observed.real:
        ranges = widest(ranges, choose_ranges(graph, observed.images, "min_max"))
    if options.activation_bits == 16:
        ranges = within_bounds(graph, {tensor: with_room(range_) for tensor, range_ in ranges.items()})
    return within_caps(graph, ranges)


def _limits(
    graph: Graph, observed: Observed, options: Quantize, input_ranges: Mapping[str, Range]
) -> dict[str, tuple[float, float]]:
    """Where ranges may end, because readers saturate or inputs reach no farther; {} for the methods of papers."""
    if options.ranges != "extreme_value":
        return {}
    limits = {tensor: (bound.low, bound.high) for tensor, bound in bounds_behind_inputs(graph, input_ranges).items()}
    views = [saturation(graph, view, options.activation_bits) for view in (observed.images, observed.normalized)]
    for tensor, (_, high) in (views[0] | views[1]).items():
        low = min(saturated[tensor][0] for saturated in views if tensor in saturated)
        least, most = limits.get(tensor, (-np.inf, np.inf))
        limits[tensor] = max(low, least), min(high, most)
    return limits


def choose_input_ranges(
    network: Network, observed: Observed, options: Quantize, *, from_user: bool
) -> dict[str, Range]:
    """Ranges of the input tensors: from the user or the model, or the extremes of the user's inputs.

    If the user gives a range, too, it is that range, wider where the inputs go beyond it.
    """
    ranges = {}
    for tensor, known in zip(network.reference.inputs, network.input_ranges, strict=True):
        seen = Range(observed.images[tensor].low, observed.images[tensor].high)
        beyond = seen.low < known.low or seen.high > known.high
        if from_user and known.origin != "given":
            ranges[tensor] = seen
        elif from_user and beyond:
            ranges[tensor] = Range(min(seen.low, known.low), max(seen.high, known.high))
        elif known.origin != "given" and known.scale is not None:
            # Estimated by a few moments: real inputs reach farther now and then, as in every other tensor.
            reached = extreme_value(observed.images[tensor].lows, observed.images[tensor].highs)
            ranges[tensor] = Range(min(reached.low, known.low), max(reached.high, known.high))
        else:
            ranges[tensor] = range_of_levels(*known.ends) if options.activation_bits == 8 else Range(*known.ends)
    return ranges
