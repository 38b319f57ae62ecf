"""Finds the range of each of a model's inputs that the user does not give, and what inputs in this range look like.

A Rescaling of 8-bit values or a Normalization at the input tells the range. Otherwise the statistics of the first
BatchNormalization that reads only this input do: they give the mean and the standard deviation of the inputs (`fit.py`). If
pictures in a common range have about these, that range is taken, the one that fits best. Otherwise the range is the mean -+ 3.75
standard deviations, and inputs are generated with the mean, the deviation and the smoothness that fit.

A range that the user gives is kept. Where the statistics contradict it, the user is told. If they are of much narrower inputs,
the generated inputs follow them within the range. If they are of inputs beyond the range, the file never sees such inputs, and
the statistics are left aside.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from tfdatafree.inputs.fit import Fit, divergence_of, fit_inputs
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.network import Ends, GivenRange, InputRange
from tfdatafree.model.operations import operation_of
from tfdatafree.recipe.check import require_name

# Common ranges of image and audio pipelines: [0, 1], [-1, 1], 8-bit, 8-bit less its mean; and for three channels
# (x - mean) / sd of ImageNet.
COMMON_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-128.0, 128.0))
IMAGENET_RANGE = (-2.12, 2.64)
COLOUR_RANGES = (*COMMON_RANGES, IMAGENET_RANGE)
# Where the mean of pictures can lie in their range, and their standard deviation, as parts of its width. Of photographs it
# is 0.2 to 0.3. A signal that is taken for pictures would be clipped; pictures that are not recognized get a coarser grid.
_MEANS, _DEVIATIONS = (0.1, 0.9), (0.08, 0.31)
# Standard deviations on either side of the mean that a range without a name gets.
_REACH = 3.75
# Pictures within this many nats of the statistics fit, unless inputs that differ along an axis fit much better. Within the
# second number these are not looked for.
_FITS, _FITS_WELL = 0.5, 0.2
# 8-bit values, and how large the largest number is that pipelines make of them: about 1, up to 2.64 for (x - mean) / sd of
# ImageNet; or 8-bit values again, without their mean for example.
_BYTES, _MADE_OF_BYTES = (0.0, 255.0), ((0.25, 5.0), (100.0, 300.0))
# A given range is contradicted if another one fits this many nats better.
_CONTRADICTED = 0.5


def given_by_input(given: GivenRange | None, names: Sequence[str]) -> list[InputRange | None]:
    """What the user gives for each of the inputs `names`; None where nothing.

    Raises:
        ValueError: An input has another name.
    """
    if given is None:
        return [None] * len(names)
    if not isinstance(given, Mapping):
        return [InputRange(*given, "given")] * len(names)
    for name in given:
        require_name("an input in input_range", name, names)
    return [InputRange(*given[name], "given") if name in given else None for name in names]


def as_given(ranges: Mapping[str, Ends]) -> GivenRange:
    """These ranges by input name as a user would give them: one range where all are the same."""
    first = next(iter(ranges.values()))
    return first if all(ends == first for ends in ranges.values()) else dict(ranges)


def find_input_ranges(graph: Graph, given: GivenRange | None = None, seed: int = 0) -> tuple[InputRange, ...]:
    """The range of each input of an unfolded, separated graph in its order, and the inputs to generate in it.

    Args:
        given: What the user says; all other ranges are found.

    Raises:
        ValueError: The user's ranges name an input that the graph does not have.
    """
    return tuple(
        find_input_range(graph, name, seed) if known is None else _judged(graph, name, known, seed)
        for name, known in zip(graph.inputs, given_by_input(given, graph.inputs), strict=True)
    )


def find_input_range(graph: Graph, name: str, seed: int = 0) -> InputRange:
    """The range of the input `name` of an unfolded, separated graph, and the inputs to generate in it."""
    for node in _first_readers(graph, name):
        operation = graph.operation_of(node)
        if isinstance(operation, keras.layers.Rescaling) and _takes_bytes(graph, name, operation, seed):
            return InputRange(0.0, 255.0, f"from the Rescaling layer '{node.name}', which takes 8-bit values")
        if isinstance(operation, keras.layers.Normalization):
            mean, sd = np.asarray(operation.mean), np.sqrt(np.asarray(operation.variance))
            low, high = float((mean - 3 * sd).min()), float((mean + 3 * sd).max())
            return InputRange(
                low, high, f"from the Normalization layer '{node.name}': mean +- 3 standard deviations", estimated=True
            )
    fit = fit_inputs(graph, name, seed)
    if fit is None:
        return _assumed(graph, name)
    origin = f"estimated from the statistics of '{fit.batchnorm}'; {_how_to_settle(graph, name)}"
    common = _common_range(fit, graph.specs[name].size(-1))
    if common is not None:
        return InputRange(*common, origin, divergence=fit.of_range(*common), estimated=True)
    return _fitted(InputRange(*_spread(fit), origin, estimated=True), fit)


def _takes_bytes(graph: Graph, name: str, rescaling: keras.layers.Rescaling, seed: int) -> bool:
    """Whether the Rescaling at the input is one of 8-bit values, and not of another unit.

    The statistics of the first BatchNorm decide. Where none tells, it is what becomes of 8-bit values: small numbers as networks
    take them, or 8-bit values again.
    """
    divergence = divergence_of(graph, name, InputRange(*_BYTES, "8-bit values"), seed)
    if divergence is not None:
        if divergence <= _FITS:
            return True
        fit = fit_inputs(graph, name, seed)
        return fit is None or divergence - fit.divergence <= _CONTRADICTED
    largest = max(
        float(np.abs(end * np.asarray(rescaling.scale) + np.asarray(rescaling.offset)).max()) for end in _BYTES
    )
    return any(low <= largest <= high for low, high in _MADE_OF_BYTES)


def _assumed(graph: Graph, name: str) -> InputRange:
    """The range of an input that no layer tells anything of."""
    settle = _how_to_settle(graph, name)
    which = "its inputs" if len(graph.inputs) == 1 else f"its input '{name}'"
    return InputRange(
        -1.0,
        1.0,
        f"assumed: no layer of the model tells; {settle}",
        warning=f"nothing in '{graph.name}' tells the range of {which}, and [-1, 1] is assumed; if real inputs leave "
        f"it, results can be useless: {settle}.",
        told=False,
        estimated=True,
    )


def _how_to_settle(graph: Graph, name: str) -> str:
    wanted = "(low, high)" if len(graph.inputs) == 1 else f"{{'{name}': (low, high)}}"
    return f"pass input_range={wanted} if you know it, or 8 real inputs as representative_data"


def _judged(graph: Graph, name: str, given: InputRange, seed: int) -> InputRange:
    """The range that the user gives, with inputs that fit the statistics, and a warning where these contradict the range."""
    divergence = divergence_of(graph, name, given, seed)
    if divergence is None or divergence <= _FITS_WELL:
        return dataclasses.replace(given, divergence=divergence)
    fit = fit_inputs(graph, name, seed)
    assert fit is not None, "a BatchNorm told the divergence"
    if divergence <= _FITS and not fit.split:
        return dataclasses.replace(given, divergence=divergence)
    found = _fitted(given, fit) if fit.linear else given
    # The given range may cut off much of what would fit.
    found = dataclasses.replace(found, divergence=divergence_of(graph, name, found, seed))
    width, sd = given.high - given.low, float(fit.sd.max())
    outside = bool(np.any(fit.mean < given.low) or np.any(fit.mean > given.high))
    if divergence - fit.divergence <= _CONTRADICTED or not (outside or sd > width or sd < width / 100):
        return found
    warning = _contradiction(graph, name, given, fit)
    far = np.any(fit.mean < given.low - 2 * fit.sd) or np.any(fit.mean > given.high + 2 * fit.sd)
    if sd > width or far:
        return dataclasses.replace(given, divergence=divergence, warning=warning, too_narrow=True)
    return dataclasses.replace(found, warning=warning)


def _contradiction(graph: Graph, name: str, given: InputRange, fit: Fit) -> str:
    low, high = _common_range(fit, graph.specs[name].size(-1)) or _spread(fit)
    times = (high - low) / (given.high - given.low)
    return (
        f"input_range{'' if len(graph.inputs) == 1 else f' of {name!r}'} is ({given.low:g}, {given.high:g}), but the statistics "
        f"of '{fit.batchnorm}' fit inputs from {low:.4g} to {high:.4g}, {times:.3g} times as wide; did you mean "
        f"({low:.4g}, {high:.4g})?"
    )


def _spread(fit: Fit) -> tuple[float, float]:
    """The range around the mean for inputs that are no pictures in a common range."""
    return float((fit.mean - _REACH * fit.sd).min()), float((fit.mean + _REACH * fit.sd).max())


def _fitted(range_: InputRange, fit: Fit) -> InputRange:
    return dataclasses.replace(range_, kind=fit.kind, offset=fit.offset, scale=fit.scale, divergence=fit.divergence)


def _likely(fit: Fit, low: float, high: float) -> bool:
    """Whether pictures in this range can have the mean and the standard deviation of `fit`."""
    width = high - low
    mean, deviation = (fit.mean.mean() - low) / width, np.sqrt(np.square(fit.sd).mean()) / width
    return bool(_MEANS[0] <= mean <= _MEANS[1] and _DEVIATIONS[0] <= deviation <= _DEVIATIONS[1])


def _common_range(fit: Fit, channels: int) -> tuple[float, float] | None:
    """The common range whose pictures fit best; None where none does."""
    if fit.split:
        return None
    likely = [ends for ends in (COLOUR_RANGES if channels == 3 else COMMON_RANGES) if _likely(fit, *ends)]
    best = min(likely, key=lambda ends: fit.of_range(*ends), default=None)
    return best if best is not None and fit.of_range(*best) <= _FITS else None


def _first_readers(graph: Graph, name: str) -> Iterator[Node]:
    """The operations that read the input `name`, also behind padding, a change of shape and the like."""
    consumers, behind = graph.consumers(), [name]
    while behind:
        for node in consumers[behind.pop()]:
            yield node
            if operation_of(graph.layer_of(node)).values is not None:
                behind += node.outputs
