"""The inputs that layers are run on: procedural images, or a few inputs that the user gives, in the same form."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.input_files import arrays_by_input, read_images, require_readable
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRanges

# More inputs than this change ranges and means very little.
MOST_INPUTS = 256
# Kinds of NumPy's types that inputs can have. Others, such as bfloat16, are of the kind V.
_NUMBERS = "biufV"


@dataclass(frozen=True)
class Inputs:
    """The inputs that layers are run on.

    Attributes:
        arrays: float32 (n, *shape) per graph input.
        described: What the result is made from, for the report.
        in_range: Whether they were made for the model's input range. If not, their own range is the input range.
        real: Whether they are the user's own.
    """

    arrays: list[np.ndarray]
    described: str
    in_range: bool = False
    real: bool = True


def generated_inputs(graph: Graph, images: int, ranges: InputRanges, *, seed: int) -> Inputs:
    """Procedural images in these ranges."""
    arrays = make_inputs(graph, images, ranges, seed=seed)
    return Inputs(arrays, f"{images} procedural images and BatchNorm statistics; no data", in_range=True, real=False)


def given_inputs(data: Any, graph: Graph, input_range: tuple[float, float]) -> Inputs:
    """The user's inputs: what `take_inputs` takes, or the path of a folder of images, an .npz or an .npy.

    Args:
        input_range: The values that black and white become in the images of a folder.

    Raises:
        ValueError, LoadError, MissingPackageError: They cannot be used; says why.
    """
    if not isinstance(data, (str, os.PathLike)):
        arrays = take_inputs(data, graph)
        kind = "generated images" if isinstance(data, GeneratedImages) else "representative inputs"
        return Inputs(arrays, f"{len(arrays[0])} {kind} given by the user, and BatchNorm statistics")
    require_readable(data)
    if not Path(data).is_dir():
        arrays = take_inputs(arrays_by_input(data, graph.inputs), graph, source=f"'{data}'")
        return Inputs(arrays, f"{len(arrays[0])} representative inputs from '{data}', and BatchNorm statistics")
    if len(graph.inputs) > 1:
        raise ValueError(
            f"'{data}' is a folder of images, but the model has the inputs {', '.join(graph.inputs)}; give an .npz file "
            "with an array for each."
        )
    shape = graph.specs[graph.inputs[0]].example_shape
    images = read_images(Path(data), shape, *input_range, MOST_INPUTS)
    low, high = input_range
    described = (
        f"{len(images)} representative images from '{data}', scaled to [{low:g}, {high:g}], and BatchNorm statistics"
    )
    return Inputs(take_inputs(images, graph), described, in_range=True)


def take_inputs(
    data: Any, graph: Graph, *, most: int | None = MOST_INPUTS, source: str = "representative_data"
) -> list[np.ndarray]:
    """Up to `most` (None: all) of the user's inputs per graph input, float32 (n, *shape).

    Args:
        data: An array (n, *shape), or for several inputs a list of such arrays or a dict by input name. Or the result of
            `generate_images`. Or an iterable (list, generator, tf.data.Dataset) of single examples or batches, each an
            array, a tuple or a dict. The labels of an (inputs, labels) pair are dropped.
        source: Name of the data in error messages.

    Raises:
        ValueError: Nothing came, or a shape does not fit the model's input.
    """
    names = graph.inputs
    if isinstance(data, GeneratedImages):
        data = data.images if len(names) == 1 else data.inputs
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
            raise ValueError(
                f"{source} lacks the input(s) {', '.join(missing)}; give an array for each of {', '.join(names)}."
            )
        return [batch[name] for name in names]
    if isinstance(batch, (list, tuple)):
        if len(names) == 1:
            return [batch[0]]
        return list(batch[0] if len(batch) == 2 and isinstance(batch[0], (list, tuple)) else batch)
    return [batch]


def _fit(array: Any, graph: Graph, name: str, source: str) -> np.ndarray:
    """`array` with a batch axis and the type of the input. Raises ValueError for another shape."""
    spec = graph.specs[name]
    array = np.asarray(array)
    if array.dtype.kind not in _NUMBERS:
        raise ValueError(
            f"{source} for '{name}' holds {array.dtype} and not numbers; give numbers of its input's type."
        )
    array = array.astype(spec.dtype, copy=False)
    wanted = spec.shape[1:]
    if array.shape == wanted:
        array = array[None]
    if array.shape[1:] != wanted:
        raise ValueError(f"{source} for '{name}' has shape {array.shape}; give (n, {', '.join(map(str, wanted))}).")
    return array
