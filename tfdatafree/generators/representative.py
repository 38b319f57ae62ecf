"""A few real inputs, if the user has them, brought into the form of the generated ones."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfdatafree.graph import Graph

# Real inputs beyond this many change ranges and means very little.
MOST_INPUTS = 256


def take_inputs(
    data: Any, graph: Graph, *, most: int | None = MOST_INPUTS, source: str = "representative_data"
) -> list[np.ndarray]:
    """Up to `most` (None: all) real inputs per graph input, float32 (n, *shape).

    Args:
        data: An array (n, *shape); a list of such arrays or a dict by input name, one per input; or an iterable
            (list, generator, tf.data.Dataset) of single examples or batches, each an array, a tuple or a dict; of an
            (inputs, labels) pair the labels are dropped.
        source: What errors call the data.

    Raises:
        ValueError: Nothing came, or a shape does not fit the model's input.
    """
    names = graph.inputs
    batches: Iterable[Any]
    if isinstance(data, np.ndarray) or hasattr(data, "numpy"):
        batches = [data]
    elif isinstance(data, Mapping):
        batches = [data]
    elif isinstance(data, (list, tuple)) and len(data) == len(names) > 1:
        batches = [tuple(data)]
    elif isinstance(data, Iterable):
        batches = data
    else:
        raise ValueError(f"{source} is a {type(data).__name__}; give an array, a dataset or an iterable.")
    columns: list[list[np.ndarray]] = [[] for _ in names]
    count = 0
    for batch in batches:
        arrays = [
            _fit(array, graph, name, source) for array, name in zip(_split(batch, names, source), names, strict=True)
        ]
        for column, array in zip(columns, arrays, strict=True):
            column.append(array)
        count += len(arrays[0])
        if most is not None and count >= most:
            break
    if not count:
        raise ValueError(f"{source} is empty; give at least one input, or leave it out.")
    return [np.concatenate(column)[:most] for column in columns]


def _split(batch: Any, names: list[str], source: str) -> list[Any]:
    """The arrays of one batch, one per input."""
    if isinstance(batch, Mapping):
        missing = [name for name in names if name not in batch]
        if missing:
            raise ValueError(f"{source} lacks the input(s) {', '.join(missing)}.")
        return [batch[name] for name in names]
    if isinstance(batch, (list, tuple)):
        if len(names) == 1:
            return [batch[0]]
        return list(batch[0] if len(batch) == 2 and isinstance(batch[0], (list, tuple)) else batch)
    return [batch]


def _fit(array: Any, graph: Graph, name: str, source: str) -> np.ndarray:
    """`array` with a batch axis and the input's type."""
    spec = graph.specs[name]
    array = np.asarray(array, spec.dtype)
    wanted = spec.shape[1:]
    if array.shape == wanted:
        array = array[None]
    if array.shape[1:] != wanted:
        raise ValueError(f"{source} for '{name}' has shape {array.shape}; give (n, {', '.join(map(str, wanted))}).")
    return array
