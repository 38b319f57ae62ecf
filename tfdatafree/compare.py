"""How alike two models are, on inputs that need no labels."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tfdatafree.model.cap_layer  # noqa: F401  (as the next one)
import tfdatafree.model.quantizer_layer  # noqa: F401  (registers the layer that a simulating .keras file holds)
from tfdatafree.canonical.separate import separate
from tfdatafree.compressed import Compressed
from tfdatafree.errors import ExportError, LoadError
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.input_files import arrays_by_input
from tfdatafree.inputs.input_range import InputRange, check_input_range, find_input_range
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.model.graph import Graph
from tfdatafree.model.load import load
from tfdatafree.numerics import metrics
from tfdatafree.report.contents import read_tflite
from tfdatafree.report.outputs import OutputComparison, compare_outputs
from tfdatafree.tflite.runtime import Runner


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models side by side; `print` it.

    Attributes:
        n: Number of inputs.
        inputs: What they were.
        outputs: In the models' order.
    """

    n: int
    inputs: str
    outputs: tuple[OutputComparison, ...]

    def __str__(self) -> str:
        lines = [f"inputs              {self.n} {self.inputs}"]
        for output in self.outputs:
            if len(self.outputs) > 1:
                lines += ["", f"output '{output.name}'"]
            if output.agreement is not None:
                lines.append(f"agreement           {100 * output.agreement:.2f} % have the same argmax")
            lines.append(f"output discrepancy  {output.output_discrepancy:.5f} (0: same direction, 2: opposite)")
            if output.response_discrepancy is not None:
                found = f"{output.response_discrepancy:.5f}"
                lines.append(f"of responses        {found} (the same, less what all inputs have in common)")
            sqnr = "no difference at all" if np.isposinf(output.sqnr_db) else f"{output.sqnr_db:.1f} dB"
            lines.append(f"SQNR                {sqnr}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Subject:
    """A model that can be run.

    Attributes:
        names, shapes, dtypes: Of each input; shapes without the batch.
        outputs: Names.
        predict: Real inputs (n, *shape) -> real outputs (n, ...).
        grid: Range of the first input's integers; None for a float input.
        model: The Keras model, None for a file.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    outputs: tuple[str, ...]
    predict: Callable[[Sequence[np.ndarray]], list[np.ndarray]]
    grid: InputRange | None = None
    model: keras.Model | None = None


def compare(
    a: str | os.PathLike,
    b: str | os.PathLike,
    *,
    data: str | os.PathLike | None = None,
    n: int | None = None,
    input_range: tuple[float, float] | None = None,
    input_shape: tuple[int, ...] | None = None,
    unsafe_load: bool = False,
    seed: int = 0,
) -> Comparison:
    """Runs two models on the same inputs.

    Args:
        a, b: Paths of .keras, .h5 or .tflite files; `a` is the reference.
        data: An .npz with the real inputs, preprocessed as the models want them: one array (or one called `x`), or for
            several inputs arrays with the inputs' names. None: procedural images.
        n: Number of inputs: of `data` the first, None for all; without `data` None stands for 32.
        input_range: (low, high) of the generated inputs; None takes the range that an integer file's input covers,
            else what the Keras model tells.
        input_shape, unsafe_load: As for `compress`.
        seed: Of the generated inputs.

    Raises:
        LoadError: A file is missing, damaged or of another kind.
        UnsupportedModelError: As for `compress`.
        ValueError: The models do not fit each other or the data, or an option is wrong.
    """
    if n is not None and n < 1:
        raise ValueError(f"n is {n}; compare on at least 1 input.")
    given = None if input_range is None else check_input_range(input_range)
    first, second = _pair(a, b, input_shape, unsafe_load)
    if data is None:
        found = given or _range_of(first, second, seed)
        inputs = [
            _drawn(n or 32, shape, dtype, found, seed + at)
            for at, (shape, dtype) in enumerate(zip(first.shapes, first.dtypes, strict=True))
        ]
        described = f"procedural images in [{found.low:g}, {found.high:g}] ({found.origin})"
    else:
        inputs = _read_inputs(data, first, n)
        described = f"inputs of '{data}'"
    outputs = compare_outputs(first.outputs, first.predict(inputs), second.predict(inputs))
    return Comparison(n=len(inputs[0]), inputs=described, outputs=outputs)


def output_discrepancy(a: Any, b: Any, images: Any, *, unsafe_load: bool = False) -> float:
    """How far the directions of two models' outputs lie apart: mean || F/|F| - F'/|F'| || over the inputs, in [0, 2].

    Lower is better; it needs no labels, and ranks compressed models much as their accuracy does. Of several outputs the
    mean.

    Args:
        a, b: Keras models, results of `compress` (their file runs, where there is one), `.tflite` bytes, or paths of
            .keras, .h5 or .tflite files.
        images: Real values (n, *shape), as the models want them; for several inputs a list in the models' order or a
            dict by the first model's input names; or what `generate_images` returned.
        unsafe_load: As for `compress`.

    Raises:
        ValueError: The models do not fit each other or the images.
        LoadError, UnsupportedModelError: As for `compare`.
    Source: Sobolev et al., FRanDI, eq. 3.
    """
    return float(np.mean([metrics.output_discrepancy(x, y) for x, y in _both(a, b, images, unsafe_load)]))


def response_discrepancy(a: Any, b: Any, images: Any, *, unsafe_load: bool = False) -> float:
    """How far two models' responses lie apart, in [0, 2]: `output_discrepancy` of what each input has of its own.

    That is the output less its mean over the inputs, and over the classes. Generated inputs have much in common, and what
    they have in common moves all outputs of a compressed model alike; real inputs do not share it. Without it, procedural
    images rank models more as real ones do; on images of `generate_images` both figures do about alike. An error that is
    the same for every input is not seen: `output_discrepancy` sees it. `numerics/metrics.py` has the formula and what it
    bounds. Of several outputs the mean.

    Args:
        a, b, images, unsafe_load: As for `output_discrepancy`; at least 2 inputs, better dozens.

    Raises:
        ValueError: The models do not fit each other or the images, or there is one input only.
        LoadError, UnsupportedModelError: As for `compare`.
    """
    return float(np.mean([metrics.response_discrepancy(x, y) for x, y in _both(a, b, images, unsafe_load)]))


def _both(a: Any, b: Any, images: Any, unsafe: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Both models' outputs (n, ...), in pairs."""
    first, second = _pair(a, b, None, unsafe)
    inputs = _given_inputs(images, first)
    return list(zip(first.predict(inputs), second.predict(inputs), strict=True))


def _given_inputs(images: Any, subject: _Subject) -> list[np.ndarray]:
    """One array per input, checked against the model."""
    if isinstance(images, GeneratedImages):
        images = list(images.inputs.values())
    elif isinstance(images, Mapping):
        if missing := [name for name in subject.names if name not in images]:
            raise ValueError(f"images lack {', '.join(missing)}; the inputs are {', '.join(subject.names)}.")
        images = [images[name] for name in subject.names]
    elif len(subject.names) == 1 and not isinstance(images, (list, tuple)):
        images = [images]
    if len(images) != len(subject.names):
        raise ValueError(f"images are {len(images)} arrays; give one per input: {', '.join(subject.names)}.")
    return [
        _fitted(name, np.asarray(values), shape, dtype, len(images[0]), "images")
        for name, values, shape, dtype in zip(subject.names, images, subject.shapes, subject.dtypes, strict=True)
    ]


def _fitted(name: str, values: np.ndarray, shape: tuple[int, ...], dtype: str, n: int, source: str) -> np.ndarray:
    if values.shape[1:] != shape or not len(values) or len(values) != n:
        raise ValueError(f"'{name}' in {source} has shape {values.shape}; give (n, {', '.join(map(str, shape))}).")
    if values.dtype.kind not in "fiub":
        raise ValueError(f"'{name}' in {source} holds {values.dtype}; give numbers.")
    return values.astype(dtype)


def _pair(a: Any, b: Any, input_shape: tuple[int, ...] | None, unsafe: bool) -> tuple[_Subject, _Subject]:
    """Both models, ready to run. Raises ValueError unless their inputs and the number of outputs are equal."""
    first, second = (_open(subject, input_shape, unsafe) for subject in (a, b))
    if first.shapes != second.shapes:
        raise ValueError(
            f"{_named(a)} takes inputs of shape {_listed(first.shapes)}, {_named(b)} of {_listed(second.shapes)}; "
            "only models with equal inputs can be compared."
        )
    if len(first.outputs) != len(second.outputs):
        raise ValueError(
            f"{_named(a)} has {len(first.outputs)} outputs, {_named(b)} has {len(second.outputs)}; "
            "only models with equal outputs can be compared."
        )
    return first, second


def _named(subject: Any) -> str:
    if isinstance(subject, (str, os.PathLike)):
        return f"'{subject}'"
    if isinstance(subject, bytes):
        return "the .tflite given as bytes"
    return f"the {type(subject).__name__}" + (f" '{subject.name}'" if hasattr(subject, "name") else "")


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def _open(subject: Any, input_shape: tuple[int, ...] | None, unsafe: bool) -> _Subject:
    if isinstance(subject, Compressed):
        try:
            subject = subject.tflite
        except ExportError:
            subject = subject.model
    if isinstance(subject, bytes):
        return _open_content(subject, "the .tflite", "the .tflite")
    if isinstance(subject, (str, os.PathLike)) and Path(subject).suffix == ".tflite":
        return _open_content(read_tflite(subject), f"'{subject}'", f"'{Path(subject).name}'")
    model = load(subject, unsafe=unsafe, input_shape=input_shape)

    def predict(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = model.predict(list(inputs) if len(inputs) > 1 else inputs[0], verbose=0)
        return [np.asarray(output) for output in keras.tree.flatten(outputs)]

    return _Subject(
        tuple(tensor.name for tensor in model.inputs),
        tuple(tuple(tensor.shape[1:]) for tensor in model.inputs),
        tuple(tensor.dtype for tensor in model.inputs),
        tuple(getattr(model, "output_names", ("output",))),  # a Sequential has one, without a name
        predict,
        model=model,
    )


def _open_content(content: bytes, name: str, short: str) -> _Subject:
    try:
        runner = Runner(content)
    except ValueError as error:
        raise LoadError(f"{name} cannot be run: {error}") from error
    for detail in runner.inputs:
        if len(detail["shape"]) == 0 or detail["shape"][0] != 1:
            raise ValueError(f"{name} takes inputs of shape {tuple(detail['shape'])}; batches must be of 1.")

    def predict(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        rows = [runner.predict([array[at : at + 1] for array in inputs]) for at in range(len(inputs[0]))]
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    detail = runner.inputs[0]
    (scale, zero_point), dtype = detail["quantization"], np.dtype(detail["dtype"])
    grid = None
    if scale:
        limits = np.iinfo(dtype)
        low, high = (float(scale * (end - zero_point)) for end in (limits.min, limits.max))
        grid = InputRange(low, high, f"what the integers of {short} reach")
    return _Subject(
        tuple(detail["name"] for detail in runner.inputs),
        tuple(tuple(int(size) for size in detail["shape"][1:]) for detail in runner.inputs),
        tuple("float32" if detail["quantization"][0] else np.dtype(detail["dtype"]).name for detail in runner.inputs),
        tuple(detail["name"] for detail in runner.outputs),
        predict,
        grid=grid,
    )


def _range_of(first: _Subject, second: _Subject, seed: int) -> InputRange:
    """Range of the generated inputs. What a file was made for comes before what can be guessed from a Keras model."""
    for subject in (first, second):
        if subject.grid is not None:
            return subject.grid
    for subject in (first, second):
        if subject.model is not None:
            return find_input_range(separate(Graph.from_keras(subject.model)).graph, seed)
    raise ValueError("no model tells the range of its inputs; give input_range (command line: --input_range=-1,1).")


def _drawn(n: int, shape: tuple[int, ...], dtype: str, found: InputRange, seed: int) -> np.ndarray:
    values = procedural_images(n, shape, found.low, found.high, seed=seed)
    return np.round(values).astype(dtype) if "int" in dtype else values


def _read_inputs(path: str | os.PathLike, subject: _Subject, n: int | None) -> list[np.ndarray]:
    """The inputs (n, *shape) in an .npz or .npy, checked against the model."""
    arrays = arrays_by_input(path, list(subject.names))
    count = len(arrays[subject.names[0]][:n])
    return [
        _fitted(name, arrays[name][:n], shape, dtype, count, f"'{path}'")
        for name, shape, dtype in zip(subject.names, subject.shapes, subject.dtypes, strict=True)
    ]
