"""Procedural inputs for every input of a graph."""

from collections.abc import Callable
from typing import cast

import numpy as np

from tfdatafree.inputs.procedural import procedural_images, unit_inputs
from tfdatafree.limits import require_inputs_fit
from tfdatafree.model.cost import is_full_image, multiplications
from tfdatafree.model.graph import Graph, TensorSpec
from tfdatafree.model.network import Ends, InputRange, InputRanges

# Generated inputs pass through a network several times. Through a full-image network all of them together take at most this
# many multiplications each time, some seconds on two cores, but there are never fewer inputs than `_FEWEST`.
_MOST_MULTIPLICATIONS = 2**38
_FEWEST = 4


def drawing(graph: Graph, ranges: InputRanges) -> Callable[[int, int], list[np.ndarray]]:
    """(n, seed) -> `make_inputs` of the graph."""
    return lambda n, seed: make_inputs(graph, n, ranges, seed=seed)


def affordable(graph: Graph, n: int) -> int:
    """`n`, or fewer inputs for a full-image network in which that many would take minutes."""
    if not is_full_image(graph):
        return n
    return min(n, max(_FEWEST, _MOST_MULTIPLICATIONS // max(multiplications(graph), 1)))


def make_inputs(graph: Graph, n: int, ranges: InputRanges, *, seed: int = 0) -> list[np.ndarray]:
    """`n` procedural inputs for each input of the graph, as `make_input` makes them; float32 (n, *shape)."""
    return [
        make_input(graph.specs[tensor], n, found, seed=seed + at)
        for at, (tensor, found) in enumerate(zip(graph.inputs, ranges_by_input(graph, ranges), strict=True))
    ]


def make_input(spec: TensorSpec, n: int, input_range: InputRange, *, seed: int) -> np.ndarray:
    """`n` procedural inputs in this range, of its kind, mean and standard deviation; (n, *shape) of the input's type.

    Without a mean and a standard deviation they are pictures that fill the range. Where inputs were matched, they are these,
    and repeat.
    """
    require_inputs_fit(n, spec.example_shape)
    if input_range.values is not None:
        values = np.resize(input_range.values, (n, *spec.example_shape)).astype(np.float32)
    elif input_range.offset is not None:
        values = unit_inputs(n, spec.example_shape, input_range.kind, seed=seed)
        values *= np.asarray(input_range.scale, np.float32)
        values += np.asarray(input_range.offset, np.float32)
        np.clip(values, *input_range.ends, out=values)
    else:
        values = procedural_images(n, spec.example_shape, *input_range.ends, seed=seed)
    return np.round(values).astype(spec.dtype) if "int" in spec.dtype else values


def ranges_by_input(graph: Graph, ranges: InputRanges) -> list[InputRange]:
    """One range per input of the graph, also for plain (low, high)."""
    found = [range_ for range_ in ranges if isinstance(range_, InputRange)]
    return found or [InputRange(*cast(Ends, ranges), "given")] * len(graph.inputs)
