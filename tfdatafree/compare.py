"""How similar the outputs of two models are, on inputs that need no labels."""

import dataclasses
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
from tfdatafree.errors import LoadError, printable
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.given_range import check_input_range
from tfdatafree.inputs.input_files import arrays_by_input
from tfdatafree.inputs.input_range import find_input_range, given_by_input
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.limits import require_inputs_fit, require_seed
from tfdatafree.model.graph import Graph
from tfdatafree.model.load import load
from tfdatafree.model.network import InputRange
from tfdatafree.numerics import metrics
from tfdatafree.quantization.split_outputs import rejoin
from tfdatafree.report.contents import read_runnable
from tfdatafree.report.outputs import OutputComparison, OutputForm, compare_outputs, output_forms
from tfdatafree.tflite.classes import class_outputs
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.runtime import Runner

_MOST_REASON = 300  # letters of what LiteRT says


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare` found; `print` it.

    Attributes:
        n: Number of inputs.
        inputs: What the inputs were.
        outputs: One comparison per output, in the models' order.
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
            lines.append(f"SQNR                {_decibels(output)}")
            for part in output.parts:
                same = "" if part.agreement is None else f", {100 * part.agreement:.2f} % have the same argmax"
                lines.append(f"  of '{part.name}': {_decibels(part)}{same}")
        return "\n".join(lines)


def _decibels(output: OutputComparison) -> str:
    return "no difference at all" if np.isposinf(output.sqnr_db) else f"{output.sqnr_db:.1f} dB"


# Inputs of so few values pass sooner than a model is traced, which its `predict` does first.
_FEW_VALUES = 2**16


@dataclass(frozen=True)
class _Subject:
    """A model that can be run.

    Attributes:
        names, shapes, dtypes: Of each input; shapes without the batch.
        outputs: Names of the outputs.
        predict: Real inputs (n, *shape) -> real outputs (n, ...).
        grids: Range of the reals that each input's integers stand for; None for a float input.
        model: The Keras model; None for a file.
        content: The file; None for a Keras model.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    outputs: tuple[str, ...]
    predict: Callable[[Sequence[np.ndarray]], list[np.ndarray]]
    grids: tuple[InputRange | None, ...]
    model: keras.Model | None = None
    content: bytes | None = None


def compare(
    a: str | os.PathLike,
    b: str | os.PathLike,
    *,
    data: Any = None,
    n: int | None = None,
    input_range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    input_shape: tuple[int, ...] | None = None,
    unsafe_load: bool = False,
    seed: int = 0,
) -> Comparison:
    """Runs two models on the same inputs.

    Args:
        a, b: Paths of .keras, .h5 or .tflite files; `a` is the reference.
        data: Inputs to run both models on, preprocessed as the models expect them. As for `output_discrepancy`; or the path
            of an .npz or .npy file with one array (or one called `x`), for several inputs with one per input name. None:
            procedural images.
        n: Number of inputs. Of `data` the first `n` are taken, None takes all. Of procedural images None stands for 32.
        input_range: (low, high) of the procedural images, as for `compress`; the names of inputs are those of `a`. What is
            not given is the range of an integer file's input, else the range that the Keras model tells.
        input_shape, unsafe_load: As for `compress`.
        seed: Seed of the procedural images.

    Raises:
        LoadError: A file is missing, damaged or of another kind.
        UnsupportedModelError: As for `compress`.
        ValueError: The models do not fit each other or the data, or an option is wrong.
    """
    if n is not None and n < 1:
        raise ValueError(f"n is {n}; compare on at least 1 input.")
    seed = require_seed(seed)
    given = None if input_range is None else check_input_range(input_range)
    first, second = _pair(a, b, input_shape, unsafe_load)
    if data is None:
        known = given_by_input(given, first.names)
        ranges = [range_ or _range_of(at, first, second, seed) for at, range_ in enumerate(known)]
        inputs = [
            _drawn(n or 32, shape, dtype, found, seed + at)
            for at, (shape, dtype, found) in enumerate(zip(first.shapes, first.dtypes, ranges, strict=True))
        ]
        described = f"procedural images in {_described(first.names, ranges)}"
    elif isinstance(data, (str, os.PathLike)):
        inputs = _read_inputs(data, first, n)
        described = f"inputs of '{data}'"
    else:
        inputs = [array[:n] for array in _given_inputs(data, first, "data")]
        described = "generated images" if isinstance(data, GeneratedImages) else "inputs given"
    outputs = compare_outputs(_forms(first, second), first.predict(inputs), second.predict(inputs))
    return Comparison(n=len(inputs[0]), inputs=described, outputs=outputs)


def _forms(first: _Subject, second: _Subject) -> Sequence[OutputForm]:
    """What the outputs hold, by the first Keras model, else by the first file; with the names of `first`."""
    model = next((subject.model for subject in (first, second) if subject.model is not None), None)
    if model is not None:
        found: Sequence[OutputForm] = output_forms(Graph.from_keras(model))
    else:
        assert first.content is not None, "what is no Keras model is a file"
        found = [OutputForm("", has_classes) for has_classes in class_outputs(first.content)]
    return [dataclasses.replace(form, name=name) for form, name in zip(found, first.outputs, strict=True)]


def output_discrepancy(a: Any, b: Any, images: Any, *, unsafe_load: bool = False) -> float:
    """Distance between the directions of two models' outputs: mean || F/|F| - F'/|F'| || over the inputs, in [0, 2].

    Lower is better. It needs no labels, and ranks compressed models much as their accuracy does. For several outputs it is
    their mean.

    Args:
        a, b: Keras models, results of `compress` (their file runs if there is one), `.tflite` bytes, or paths of
            .keras, .h5 or .tflite files.
        images: Real values (n, *shape), as the models expect them. For several inputs a list in the models' order, or a
            dict by the input names of `a`. Or the result of `generate_images`, by these names where `a` has them, else in
            order.
        unsafe_load: As for `compress`.

    Raises:
        ValueError: The models do not fit each other or the images.
        LoadError, UnsupportedModelError: As for `compare`.
    Source: Sobolev et al., FRanDI, eq. 3.
    """
    return float(np.mean([metrics.output_discrepancy(x, y) for x, y in _both(a, b, images, unsafe_load)]))


def response_discrepancy(a: Any, b: Any, images: Any, *, unsafe_load: bool = False) -> float:
    """Distance between two models' responses, in [0, 2]: `output_discrepancy` of centred outputs.

    Outputs are centred by subtracting their mean over the inputs and over the classes. Generated inputs have much in common,
    which moves all outputs of a compressed model in the same way; real inputs do not share it. Without this common part
    procedural images rank models more as real images do. On images of `generate_images` both figures rank about equally
    well. An error that is the same for every input does not count here; `output_discrepancy` counts it.
    `numerics/metrics.py` has the formula and its bounds. For several outputs the result is their mean.

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
    inputs = _given_inputs(images, first, "images")
    return list(zip(first.predict(inputs), second.predict(inputs), strict=True))


def _given_inputs(given: Any, subject: _Subject, source: str) -> list[np.ndarray]:
    """One array per input, checked against the model; `source` is what errors call them."""
    if isinstance(given, GeneratedImages):
        named = given.inputs.keys() >= set(subject.names)  # a file may have names of its own
        given = given.inputs if named else list(given.inputs.values())
    if isinstance(given, Mapping):
        if missing := [name for name in subject.names if name not in given]:
            raise ValueError(f"{source} lack {', '.join(missing)}; the inputs are {', '.join(subject.names)}.")
        given = [given[name] for name in subject.names]
    elif len(subject.names) == 1 and not isinstance(given, (list, tuple)):
        given = [given]
    if len(given) != len(subject.names):
        raise ValueError(f"{source} are {len(given)} arrays; give one per input: {', '.join(subject.names)}.")
    return [
        _fitted(name, np.asarray(values), shape, dtype, len(given[0]), source)
        for name, values, shape, dtype in zip(subject.names, given, subject.shapes, subject.dtypes, strict=True)
    ]


def _fitted(name: str, values: np.ndarray, shape: tuple[int, ...], dtype: str, n: int, source: str) -> np.ndarray:
    if values.shape[1:] != shape or not len(values) or len(values) != n:
        raise ValueError(f"'{name}' in {source} has shape {values.shape}; give (n, {', '.join(map(str, shape))}).")
    if values.dtype.kind not in "fiub":
        raise ValueError(f"'{name}' in {source} holds {values.dtype}; give numbers.")
    if not np.isfinite(values).all():
        raise ValueError(f"'{name}' in {source} has values that are NaN or infinite; give finite ones.")
    return values.astype(dtype)


def _pair(a: Any, b: Any, input_shape: tuple[int, ...] | None, unsafe: bool) -> tuple[_Subject, _Subject]:
    """Both models, ready to run. Raises ValueError unless their inputs and the number of outputs are equal."""
    first, second = (_open(subject, input_shape, unsafe) for subject in (a, b))
    if first.shapes != second.shapes:
        raise ValueError(
            f"{_named(a)} takes inputs of shape {_listed(first.shapes)}, {_named(b)} of {_listed(second.shapes)}; "
            "only models with equal inputs can be compared."
        )
    first, second = _with_joined_outputs(first, second), _with_joined_outputs(second, first)
    if len(first.outputs) != len(second.outputs):
        raise ValueError(
            f"{_named(a)} has {len(first.outputs)} outputs, {_named(b)} has {len(second.outputs)}; "
            "only models with equal outputs can be compared."
        )
    return first, second


def _with_joined_outputs(subject: _Subject, other: _Subject) -> _Subject:
    """A file that gives out the branches of the other model's outputs (`split_outputs`), with these joined again."""
    if subject.content is None or other.model is None or len(subject.outputs) <= len(other.outputs):
        return subject
    names = File.parse(subject.content).output_names()
    tail = rejoin(separate(Graph.from_keras(other.model)).graph, names)
    if tail is None:
        return subject
    return _with_tail(subject, tail)


def _with_tail(subject: _Subject, tail: Graph | None) -> _Subject:
    if tail is None:
        return subject
    return dataclasses.replace(
        subject, outputs=tuple(tail.output_names), predict=lambda inputs: tail.predict(subject.predict(inputs))
    )


def _named(subject: Any) -> str:
    if isinstance(subject, (str, os.PathLike)):
        return f"'{subject}'"
    if isinstance(subject, bytes):
        return "the .tflite given as bytes"
    return f"the {type(subject).__name__}" + (f" '{subject.name}'" if hasattr(subject, "name") else "")


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def _open(subject: Any, input_shape: tuple[int, ...] | None, unsafe: bool) -> _Subject:
    if isinstance(subject, Compressed) and subject.built.content is not None:
        return _with_tail(_open(subject.tflite, input_shape, unsafe), subject.built.tail)
    if isinstance(subject, Compressed):
        subject = subject.model
    if isinstance(subject, bytes):
        return _open_content(subject, "the .tflite", "the .tflite")
    if isinstance(subject, (str, os.PathLike)) and Path(subject).suffix == ".tflite":
        return _open_content(read_runnable(subject), f"'{subject}'", f"'{Path(subject).name}'")
    model = load(subject, unsafe=unsafe, input_shape=input_shape)

    def predict(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        given = list(inputs) if len(inputs) > 1 else inputs[0]
        few = sum(array.size for array in inputs) <= _FEW_VALUES
        outputs = model(given, training=False) if few else model.predict(given, verbose=0)
        return [np.asarray(output) for output in keras.tree.flatten(outputs)]

    return _Subject(
        tuple(tensor.name for tensor in model.inputs),
        tuple(tuple(tensor.shape[1:]) for tensor in model.inputs),
        tuple(tensor.dtype for tensor in model.inputs),
        tuple(getattr(model, "output_names", ("output",))),  # a Sequential has one, without a name
        predict,
        grids=(None,) * len(model.inputs),
        model=model,
    )


def _open_content(content: bytes, name: str, short: str) -> _Subject:
    try:
        runner = Runner(content)
    except ValueError as error:
        raise _unusable(name, error) from error
    for detail in runner.inputs:
        if len(detail["shape"]) == 0 or detail["shape"][0] != 1:
            raise ValueError(f"{name} takes inputs of shape {tuple(detail['shape'])}; batches must be of 1.")

    def predict(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            rows = [runner.predict([array[at : at + 1] for array in inputs]) for at in range(len(inputs[0]))]
        except (RuntimeError, ValueError) as error:  # a kernel that does not take these values, or a damaged file
            raise _unusable(name, error) from error
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    return _Subject(
        tuple(detail["name"] for detail in runner.inputs),
        tuple(tuple(int(size) for size in detail["shape"][1:]) for detail in runner.inputs),
        tuple("float32" if detail["quantization"][0] else np.dtype(detail["dtype"]).name for detail in runner.inputs),
        tuple(detail["name"] for detail in runner.outputs),
        predict,
        grids=tuple(_grid_of(detail, short) for detail in runner.inputs),
        content=content,
    )


def _unusable(name: str, error: Exception) -> LoadError:
    return LoadError(f"{name} cannot be run: {printable(' '.join(str(error).split())[:_MOST_REASON])}")


def _grid_of(detail: Mapping[str, Any], file: str) -> InputRange | None:
    """The range of the reals that the integers of a file's input stand for; None for a float input."""
    scale, zero_point = detail["quantization"]
    if not scale:
        return None
    limits = np.iinfo(np.dtype(detail["dtype"]))
    low, high = (float(scale * (end - zero_point)) for end in (limits.min, limits.max))
    return InputRange(low, high, f"what the integers of {file} reach")


def _range_of(at: int, first: _Subject, second: _Subject, seed: int) -> InputRange:
    """Range of the procedural images for the input `at`: that of a file, else what can be estimated from a Keras model."""
    for subject in (first, second):
        if (grid := subject.grids[at]) is not None:
            return grid
    for subject in (first, second):
        if subject.model is not None:
            graph = separate(Graph.from_keras(subject.model)).graph
            return find_input_range(graph, graph.inputs[at], seed)
    raise ValueError(
        "neither model tells the range of its inputs; give input_range (command line: --input_range=-1,1)."
    )


def _described(names: Sequence[str], ranges: Sequence[InputRange]) -> str:
    texts = [f"[{found.low:g}, {found.high:g}] ({found.origin})" for found in ranges]
    return texts[0] if len(names) == 1 else ", ".join(map("{}: {}".format, names, texts))


def _drawn(n: int, shape: tuple[int, ...], dtype: str, found: InputRange, seed: int) -> np.ndarray:
    require_inputs_fit(n, shape)
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
