"""One range per tensor of a graph, by the method that the recipe names."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.measuring.tensor_statistics import Statistics
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.cap_layer import ChannelCap
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout
from tfdatafree.model.operations import operation_of, rectifier_of
from tfdatafree.model.saturation import reach, saturating_reader
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.ranges import aciq, extreme_value, k_sigma, min_max, percentile, search_range

# A softmax gets this many times the distance below its largest value that it needs.
_SPARE = 1.25


def choose_ranges(
    graph: Graph,
    statistics: Mapping[str, Statistics],
    method: str,
    *,
    bits: int = 8,
) -> dict[str, Range]:
    """Tensor -> range.

    Args:
        graph: The folded graph. Statistics of tensors that it does not have are ignored.
        method: "extreme_value", "min_max", "search", "percentile", "k_sigma" or "aciq".

    Raises:
        UnsupportedModelError: A tensor has values that are not finite; names it.
    """
    statistics = {tensor: s for tensor, s in statistics.items() if tensor in graph.specs}
    for tensor, s in statistics.items():
        if not math.isfinite(s.low) or not math.isfinite(s.high):
            raise UnsupportedModelError(
                f"tensor '{tensor}' has NaN or infinite values for the inputs that ranges are chosen on: the layer that writes "
                "it, or one before it, overflows. Check its weights, and the input range."
            )
    if method == "min_max":
        return {tensor: Range(min(s.low, 0.0), max(s.high, 0.0)) for tensor, s in statistics.items()}
    if method == "extreme_value":
        return within_bounds(graph, {tensor: extreme_value(s.lows, s.highs) for tensor, s in statistics.items()})
    if method == "k_sigma":
        return _k_sigma_ranges(graph, statistics)
    function = {"search": _search, "percentile": _percentile, "aciq": _aciq}[method]
    return {tensor: function(s, bits) for tensor, s in statistics.items()}


def between(a: Mapping[str, Range], b: Mapping[str, Range]) -> dict[str, Range]:
    """The geometric mean of two estimates of each end of a range.

    An estimate that is wrong by a large factor thus moves the result only by the square root of that factor. Where one of the
    two estimates is missing or 0, the other one counts.
    """
    return {
        tensor: Range(-_mean(-r.low, -b[tensor].low), _mean(r.high, b[tensor].high)) if tensor in b else r
        for tensor, r in a.items()
    }


def widest(a: Mapping[str, Range], b: Mapping[str, Range]) -> dict[str, Range]:
    """The union of two estimates of each range. A tensor that only `a` has keeps its range."""
    return {
        tensor: Range(min(r.low, b[tensor].low), max(r.high, b[tensor].high)) if tensor in b else r
        for tensor, r in a.items()
    }


def within_caps(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """`ranges` that end at the largest cap where only a ChannelCap reads the tensor, which would cap larger values anyway."""
    ranges, consumers = dict(ranges), graph.consumers()
    for node in graph.nodes:
        operation = graph.operation_of(node)
        if not isinstance(operation, ChannelCap):
            continue
        source = node.inputs[0]
        if source in ranges and consumers[source] == [node]:
            ranges[source] = Range(ranges[source].low, min(ranges[source].high, float(operation.caps.max())))
    return ranges


def saturation(graph: Graph, statistics: Mapping[str, Statistics], bits: int) -> dict[str, tuple[float, float]]:
    """{tensor that only saturating functions read: (low, high) beyond which their results stay within half a step}.

    A softmax needs values down to a distance below the largest of its channels. So its lower end follows from the smallest of
    these largest values. The distance is a quarter longer than needed, for inputs with smaller values than were seen.
    """
    limits = {}
    for tensor, readers in graph.consumers().items():
        kind = saturating_reader(graph, tensor, readers)
        if kind is None or tensor not in statistics:
            continue
        distance = reach(kind, bits, graph.specs[tensor].size(-1))
        if kind == "SOFTMAX":
            limits[tensor] = min(statistics[tensor].least_peak, 0.0) - _SPARE * distance, np.inf
        else:
            limits[tensor] = -distance, distance
    return limits


def within(ranges: Mapping[str, Range], limits: Mapping[str, tuple[float, float]]) -> dict[str, Range]:
    """`ranges` that end where `limits` do."""
    return {
        tensor: Range(max(r.low, limits[tensor][0]), min(r.high, limits[tensor][1])) if tensor in limits else r
        for tensor, r in ranges.items()
    }


# The least part of a cap that a range holds: kernels keep the cap in steps of the range, in 32 bits.
_LEAST_PART = 2.0**-22


def within_bounds(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """`ranges` that do not go beyond a cap, nor beyond the range of the tensor whose values an operation only selects."""
    ranges = dict(ranges)
    for node in graph.nodes:
        cap = _cap(graph.operation_of(node))
        selects = operation_of(graph.layer_of(node)).values is not None and node.inputs and node.inputs[0] in ranges
        for tensor in node.outputs:
            if tensor in ranges and cap is not None:
                ranges[tensor] = Range(ranges[tensor].low, max(min(ranges[tensor].high, cap), _LEAST_PART * cap))
            if tensor in ranges and selects:
                source = ranges[node.inputs[0]]
                ranges[tensor] = Range(max(ranges[tensor].low, source.low), min(ranges[tensor].high, source.high))
    return ranges


def _cap(operation: Any) -> float | None:
    """The largest value that the operation lets through; None for any."""
    if isinstance(operation, ChannelCap):
        return float(operation.caps.max())
    rectifier = rectifier_of(operation)
    return None if rectifier is None else rectifier.cap


def _mean(first: float, second: float) -> float:
    """Geometric mean of two distances from zero; where one is zero, the other one."""
    return math.sqrt(first * second) if first > 0 and second > 0 else max(first, second)


def _search(statistics: Statistics, bits: int) -> Range:
    return search_range(statistics.samples, bits, symmetric=bits == 16)


def _aciq(statistics: Statistics, bits: int) -> Range:
    return aciq(statistics.samples, bits)


def _percentile(statistics: Statistics, bits: int) -> Range:
    return percentile(statistics.samples)


def _k_sigma_ranges(graph: Graph, statistics: Mapping[str, Statistics]) -> dict[str, Range]:
    """Six standard deviations around the mean of each channel, for inputs and what layers with weights or BatchNorms write.

    Any other operation with one input gets the range that it makes of the range of its input. Operations with several
    inputs are treated as if their outputs were normal, with the moments that these have.
    """
    ranges: dict[str, Range] = {}
    producers = graph.producers()
    for tensor, s in statistics.items():
        node = producers.get(tensor)
        normal = k_sigma(s.mean, np.sqrt(s.variance))
        bounded = Range(max(normal.low, min(s.low, 0.0)), min(normal.high, max(s.high, 0.0)))
        if node is None or is_batchnorm(graph.layer_of(node)) or find_layout(graph.layer_of(node)) is not None:
            ranges[tensor] = normal
        elif len(node.inputs) == 1 and node.inputs[0] in ranges:
            ranges[tensor] = _through(graph, node, ranges[node.inputs[0]], bounded)
        else:
            ranges[tensor] = normal
    return ranges


def _through(graph: Graph, node, source: Range, fallback: Range) -> Range:
    """Range of what an elementwise operation makes of the values in `source`.

    `fallback` if values depend on other channels, or if some are not finite, as the logarithm of 0.
    """
    channels = graph.specs[node.inputs[0]].shape[-1] or 1
    if graph.specs[node.inputs[0]].shape != graph.specs[node.output].shape:
        return source
    if operation_of(graph.layer_of(node)).channels == "mixed":
        return fallback
    points = np.linspace(source.low, source.high, 257, dtype=np.float32)
    rank = len(graph.specs[node.inputs[0]].shape)
    grid = np.broadcast_to(points.reshape(-1, *[1] * (rank - 1)), (len(points), *[1] * (rank - 2), channels))
    try:
        values = np.asarray(graph.call(node, {node.inputs[0]: grid})[0])
    except Exception:  # a reshape, or another operation that does not work on single pixels, keeps the range
        return source
    return min_max(values) if np.isfinite(values).all() else fallback
