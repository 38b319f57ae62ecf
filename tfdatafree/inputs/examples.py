"""The user's examples, batch by batch: inputs in the model's form, and labels where there are any, from whatever holds them.

    arrays, lists, generators, tf.data.Datasets, the result of `generate_images`
    .npz   inputs under the inputs' names, or one array, or x, x_test, images, inputs; labels under y, y_test, labels, label
    .npy   inputs alone
    a folder of images; a folder with one folder of images per class (Keras' image_dataset_from_directory)
    a folder that TensorFlow Datasets has prepared

so that `compress`, `compare` and `evaluate` take the same data in the same way.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.input_files import (
    fit_image,
    image_paths,
    inputs_and_labels,
    read_image,
    require_image_shape,
    require_readable,
    spread,
)
from tfdatafree.inputs.prepared_dataset import is_prepared, read_prepared
from tfdatafree.limits import require_memory
from tfdatafree.model.node import TensorSpec

# Inputs of one batch of images or of an array.
BATCH = 64
# Kinds of NumPy's types that inputs can have. Others, such as bfloat16, are of the kind V.
_NUMBERS = "biufV"


@dataclass(frozen=True)
class Batch:
    """Some examples.

    Attributes:
        inputs: One array (n, *shape) per input of the model, in its order and type.
        labels: (n, ...) as they came; a dict by output where they came as one; None without labels.
    """

    inputs: list[np.ndarray]
    labels: Any = None


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Examples that can be walked through once.

    Attributes:
        batches: The batches.
        described: What they are, for reports: "images from 'val', scaled to [-1, 1]".
        scaled: Whether they are pixels that were scaled to the range asked for.
        classes: Number of classes that the folder's labels number; None if labels come otherwise.
    """

    batches: Iterator[Batch]
    described: str
    scaled: bool = False
    classes: int | None = None

    def arrays(self) -> list[np.ndarray]:
        """All inputs, one array per input of the model. Raises ValueError if they take more memory than is allowed."""
        rows: list[list[np.ndarray]] = []
        taken = 0
        for batch in self.batches:
            rows.append(batch.inputs)
            taken += sum(array.nbytes for array in batch.inputs)
            require_memory(f"the first {sum(len(row[0]) for row in rows)} inputs", taken, "give fewer")
        return [np.concatenate(column) for column in zip(*rows, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How examples are read.

    Attributes:
        scale: The values that the pixels 0 and 255 become in images; None where none are expected.
        scale_arrays: Whether arrays of 8-bit pixels are scaled, too.
        most: Largest number of examples. Of a file or a folder with more they are taken at equal distances; of a dataset, or of
            arrays in Python, the first. None: all.
        labelled: Whether the folders of images are classes.
        classes: Names of class folders in the order of their labels; None: sorted by name.
        split: Name of the part of a dataset that TensorFlow Datasets has prepared; None: the only one, or "test".
        source: What errors call data in Python.
    """

    scale: tuple[float, float] | None = None
    scale_arrays: bool = False
    most: int | None = None
    labelled: bool = False
    classes: Sequence[str] | None = None
    split: str | None = None
    source: str = "data"


def open_examples(data: Any, forms: Mapping[str, TensorSpec], how: Reading) -> Examples:
    """The examples that `data` holds, for a model with these inputs.

    Args:
        data: One of the forms above; a path for files and folders.
        forms: Input of the model -> its shape, with the batch, and its type.

    Raises:
        ValueError: Nothing came, or a shape does not fit the model's input; some of it only when the batches are walked through.
        LoadError, MissingPackageError: As for `require_readable`.
    """
    if not isinstance(data, (str, os.PathLike)):
        described = "generated images" if isinstance(data, GeneratedImages) else "inputs given"
        return Examples(batches=_checked(_python_batches(data, forms, how), how), described=described)
    require_readable(data)
    path = Path(data)
    if not path.is_dir():
        return Examples(batches=_checked(_file_batches(path, forms, how), how), described=f"inputs of '{data}'")
    if len(forms) > 1:
        raise ValueError(
            f"'{data}' is a folder of images, but the model has the inputs {', '.join(forms)}; give an .npz file with an array "
            "for each."
        )
    ((_, form),) = forms.items()
    require_image_shape(form.example_shape)
    if how.scale is None:
        raise ValueError(
            f"'{data}' is a folder of images, and nothing tells the values of black and white; give scale."
        )
    low, high = how.scale
    scaled = f"scaled to [{low:g}, {high:g}]"
    pairs: Iterable[tuple[np.ndarray, Any]]
    if is_prepared(path):
        found, split = read_prepared(path, how.split)
        pairs = ((fit_image(image, form.example_shape), label) for image, label in found)
        return Examples(
            batches=_checked(_image_batches(itertools.islice(pairs, how.most), how.scale), how),
            described=f"images of the split '{split}' in '{data}', {scaled}",
            scaled=True,
        )
    paths, classes = image_paths(path), class_names(path, how.classes) if how.labelled else []
    chosen = [paths[at] for at in spread(len(paths), how.most)]
    pairs = ((read_image(one, form.example_shape), label_of(one, path, classes)) for one in chosen)
    return Examples(
        batches=_checked(_image_batches(pairs, how.scale), how),
        described=f"images from '{data}', {scaled}",
        scaled=True,
        classes=len(classes) or None,
    )


# Folders of classes -----------------------------------------------------------------------------------------------------


def class_names(folder: Path, given: Sequence[str] | None) -> list[str]:
    """Names of the class folders in the order of their labels; empty for images without classes.

    Raises:
        ValueError: The order is in doubt, or `given` lacks a folder.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if given is not None:
        if unknown := [name for name in names if name not in given]:
            raise ValueError(
                f"'{folder}' has the folders {', '.join(unknown[:5])}, which classes lack; list every class."
            )
        return list(given)
    if names and all(name.isdecimal() for name in names) and names != sorted(names, key=int):
        raise ValueError(
            f"the class folders of '{folder}' are numbers whose order as text (Keras' order) is not that of the numbers; give "
            "classes, all names in the order of their labels."
        )
    return names


def label_of(path: Path, folder: Path, classes: Sequence[str]) -> int | None:
    """The label of an image: the position of its class folder; None if it lies in no such folder."""
    parts = path.relative_to(folder).parts
    return classes.index(parts[0]) if len(parts) > 1 and parts[0] in classes else None


# Batches ----------------------------------------------------------------------------------------------------------------


def _checked(batches: Iterator[Batch], how: Reading) -> Iterator[Batch]:
    """The batches up to `how.most` examples. Raises ValueError if there is none."""
    count = 0
    for batch in batches:
        left = len(batch.inputs[0]) if how.most is None else how.most - count
        count += len(batch.inputs[0])
        yield batch if len(batch.inputs[0]) <= left else _part(batch, slice(left))
        if count == how.most or len(batch.inputs[0]) > left:
            return
    if not count:
        raise ValueError(f"{how.source} is empty; give at least one input, or leave it out.")


def _part(batch: Batch, part: slice) -> Batch:
    labels = batch.labels
    if isinstance(labels, Mapping):
        labels = {name: values[part] for name, values in labels.items()}
    elif labels is not None:
        labels = labels[part]
    return Batch([array[part] for array in batch.inputs], labels)


def _image_batches(pairs: Iterable[tuple[np.ndarray, Any]], scale: tuple[float, float]) -> Iterator[Batch]:
    """Pixels 0 to 255 (*shape) with labels, as batches whose values lie between the ends of `scale`."""
    pairs = iter(pairs)
    while some := list(itertools.islice(pairs, BATCH)):
        images = _scaled(np.stack([image for image, _ in some]), scale)
        labels = [label for _, label in some]
        yield Batch([images], None if None in labels else np.asarray(labels))


def _scaled(pixels: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    low, high = scale
    return np.float32(low) + pixels.astype(np.float32) * np.float32((high - low) / 255)


def _file_batches(path: Path, forms: Mapping[str, TensorSpec], how: Reading) -> Iterator[Batch]:
    arrays, labels = inputs_and_labels(path, list(forms))
    count = len(next(iter(arrays.values())))
    if labels is not None and len(labels) != count:
        raise ValueError(f"'{path}' holds {count} inputs and {len(labels)} labels; store one label per input.")
    chosen = spread(count, how.most)
    for at in range(0, len(chosen), BATCH):
        rows = chosen[at : at + BATCH]
        batch = {name: array[rows] for name, array in arrays.items()}
        yield _batch((batch, None if labels is None else labels[rows]), forms, how, f"'{path}'")


def _python_batches(data: Any, forms: Mapping[str, TensorSpec], how: Reading) -> Iterator[Batch]:
    """Batches of what Python holds: an array per input, or an iterable of single examples or batches, with labels or not."""
    names = list(forms)
    if isinstance(data, GeneratedImages):
        renamed = not data.inputs.keys() & set(names)  # a file has names of its own
        if renamed and len(names) == 1:
            data = {names[0]: data.images}
        else:
            data = dict(zip(names, data.inputs.values(), strict=False)) if renamed else data.inputs
    batches: Iterable[Any]
    if isinstance(data, (np.ndarray, Mapping)) or hasattr(data, "numpy"):
        batches = [data]
    elif isinstance(data, (list, tuple)) and len(data) == len(names) > 1:
        batches = [tuple(data)]
    elif isinstance(data, Iterable):
        batches = data
    else:
        raise ValueError(f"{how.source} is a {type(data).__name__}; give an array, a dataset or an iterable.")
    return (_batch(_pair(batch, names), forms, how, how.source) for batch in batches)


def _pair(batch: Any, names: list[str]) -> tuple[Any, Any]:
    """(inputs, labels) of one batch; labels are None without any."""
    if isinstance(batch, (list, tuple)):
        if len(names) == 1 or (len(batch) > 1 and isinstance(batch[0], (list, tuple, Mapping))):
            return batch[0], batch[1] if len(batch) > 1 else None
    return batch, None


def _batch(pair: tuple[Any, Any], forms: Mapping[str, TensorSpec], how: Reading, source: str) -> Batch:
    given, labels = pair
    if isinstance(given, Mapping):
        if missing := [name for name in forms if name not in given]:
            raise ValueError(
                f"{source} lacks the input(s) {', '.join(missing)}; give an array for each of {', '.join(forms)}."
            )
        given = [given[name] for name in forms]
    elif len(forms) == 1:
        given = [given]
    if len(given) != len(forms):
        raise ValueError(f"{source} has {len(given)} arrays; give one per input: {', '.join(forms)}.")
    arrays = [
        _fit(np.asarray(array), form, name, how, source)
        for array, (name, form) in zip(given, forms.items(), strict=True)
    ]
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(
            f"the arrays of {source} have {', '.join(str(len(a)) for a in arrays)} examples; give equally many."
        )
    alone = np.ndim(given[0]) == len(next(iter(forms.values())).shape) - 1
    if isinstance(labels, Mapping):
        labels = {name: _labels(values, alone) for name, values in labels.items()}
    elif labels is not None:
        labels = _labels(labels, alone)
    return Batch(arrays, labels)


def _labels(values: Any, alone: bool) -> np.ndarray:
    return np.asarray(values)[None] if alone else np.asarray(values)


def _fit(array: np.ndarray, form: TensorSpec, name: str, how: Reading, source: str) -> np.ndarray:
    """`array` with a batch axis and the type of the input. Raises ValueError for another shape."""
    if array.dtype.kind not in _NUMBERS:
        raise ValueError(
            f"{source} for '{name}' holds {array.dtype} and not numbers; give numbers of its input's type."
        )
    if how.scale_arrays and how.scale is not None:
        if array.dtype != np.uint8:
            raise ValueError(
                f"scale is for 8-bit pixels, but {source} for '{name}' holds {array.dtype}; leave scale out, or store uint8."
            )
        array = _scaled(array, how.scale)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{source} for '{name}' has values that are NaN or infinite; give finite ones.")
    array = array.astype(form.dtype, copy=False)
    wanted = form.shape[1:]
    if array.shape == wanted:
        array = array[None]
    if array.shape[1:] != wanted:
        raise ValueError(f"{source} for '{name}' has shape {array.shape}; give (n, {', '.join(map(str, wanted))}).")
    return array
