"""Procedural inputs for every input of a graph."""

from collections.abc import Callable

import numpy as np

from tfdatafree.inputs.procedural import procedural_images, unit_inputs
from tfdatafree.model.cost import is_full_image, multiplications
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRange

# Generated inputs pass through a network several times. Through a full-image network all of them together take at most this
# many multiplications each time, some seconds on two cores, but there are never fewer inputs than `_FEWEST`.
_MOST_MULTIPLICATIONS = 2**38
_FEWEST = 4


def drawing(graph: Graph, input_range: InputRange | tuple[float, float]) -> Callable[[int, int], list[np.ndarray]]:
    """(n, seed) -> `make_inputs` of the graph."""
    return lambda n, seed: make_inputs(graph, n, input_range, seed=seed)


def affordable(graph: Graph, n: int) -> int:
    """`n`, or fewer inputs for a full-image network in which that many would take minutes."""
    if not is_full_image(graph):
        return n
    return min(n, max(_FEWEST, _MOST_MULTIPLICATIONS // max(multiplications(graph), 1)))


def make_inputs(
    graph: Graph, n: int, input_range: InputRange | tuple[float, float], *, seed: int = 0
) -> list[np.ndarray]:
    """`n` procedural inputs for each input of the graph, within `input_range`; float32 (n, *shape).

    An InputRange also tells which kind of inputs, and their mean and standard deviation. The first input has these. Others,
    and all inputs for plain numbers, are pictures that fill the range.
    """
    whole = input_range.ends if isinstance(input_range, InputRange) else input_range
    inputs = []
    for at, tensor in enumerate(graph.inputs):
        spec = graph.specs[tensor]
        if at == 0 and isinstance(input_range, InputRange) and input_range.offset is not None:
            values = unit_inputs(n, spec.example_shape, input_range.kind, seed=seed)
            values *= np.asarray(input_range.scale, np.float32)
            values += np.asarray(input_range.offset, np.float32)
            np.clip(values, *whole, out=values)
        else:
            values = procedural_images(n, spec.example_shape, *whole, seed=seed + at)
        inputs.append(np.round(values).astype(spec.dtype) if "int" in spec.dtype else values)
    return inputs
