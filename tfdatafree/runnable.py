"""Models and files that can be run on the same inputs: Keras models, results of `compress`, and TFLite files."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
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
from tfdatafree.inputs.input_range import find_input_range
from tfdatafree.model.graph import Graph
from tfdatafree.model.load import load
from tfdatafree.model.network import InputRange
from tfdatafree.model.node import TensorSpec
from tfdatafree.quantization.split_outputs import rejoin
from tfdatafree.report.contents import read_runnable
from tfdatafree.report.expected import Predict, scores_of_file
from tfdatafree.report.outputs import OutputForm, output_forms
from tfdatafree.tflite.classes import class_outputs
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.runtime import Runner

_MOST_REASON = 300  # letters of what LiteRT says
# Inputs of so few values pass sooner than a model is traced, which its `predict` does first.
_FEW_VALUES = 2**16


@dataclass(frozen=True)
class Runnable:
    """A model that can be run.

    Attributes:
        names, shapes, dtypes: Of each input; shapes without the batch.
        outputs: Names of the outputs.
        predict: Real inputs (n, *shape) -> real outputs (n, ...).
        scores: The same with what a file's softmax reads in place of what it gives.
        grids: Range of the reals that each input's integers stand for; None for a float input.
        model: The Keras model; None for a file.
        content: The file; None for a Keras model.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    outputs: tuple[str, ...]
    predict: Predict
    scores: Predict
    grids: tuple[InputRange | None, ...]
    model: keras.Model | None = None
    content: bytes | None = None

    @property
    def forms(self) -> dict[str, TensorSpec]:
        """Input -> its shape, with the batch, and its type."""
        return {
            name: TensorSpec((None, *shape), dtype)
            for name, shape, dtype in zip(self.names, self.shapes, self.dtypes, strict=True)
        }


def open_pair(a: Any, b: Any, input_shape: tuple[int, ...] | None, unsafe: bool) -> tuple[Runnable, Runnable]:
    """Both models, ready to run. Raises ValueError unless their inputs and the number of outputs are equal."""
    first, second = (open_runnable(subject, input_shape, unsafe) for subject in (a, b))
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


def _with_joined_outputs(subject: Runnable, other: Runnable) -> Runnable:
    """A file that gives out the branches of the other model's outputs (`split_outputs`), with these joined again."""
    if subject.content is None or other.model is None or len(subject.outputs) <= len(other.outputs):
        return subject
    names = File.parse(subject.content).output_names()
    tail = rejoin(separate(Graph.from_keras(other.model)).graph, names)
    if tail is None:
        return subject
    return _with_tail(subject, tail)


def _with_tail(subject: Runnable, tail: Graph | None) -> Runnable:
    if tail is None:
        return subject

    def predict(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return tail.predict(subject.predict(inputs))

    return dataclasses.replace(subject, outputs=tuple(tail.output_names), predict=predict, scores=predict)


def _named(subject: Any) -> str:
    if isinstance(subject, (str, os.PathLike)):
        return f"'{subject}'"
    if isinstance(subject, bytes):
        return "the .tflite given as bytes"
    return f"the {type(subject).__name__}" + (f" '{subject.name}'" if hasattr(subject, "name") else "")


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def open_runnable(subject: Any, input_shape: tuple[int, ...] | None, unsafe: bool) -> Runnable:
    if isinstance(subject, Compressed) and subject.built.content is not None:
        return _with_tail(open_runnable(subject.tflite, input_shape, unsafe), subject.built.tail)
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

    return Runnable(
        tuple(tensor.name for tensor in model.inputs),
        tuple(tuple(tensor.shape[1:]) for tensor in model.inputs),
        tuple(tensor.dtype for tensor in model.inputs),
        tuple(getattr(model, "output_names", ("output",))),  # a Sequential has one, without a name
        predict,
        predict,
        grids=(None,) * len(model.inputs),
        model=model,
    )


def _open_content(content: bytes, name: str, short: str) -> Runnable:
    try:
        runner = Runner(content)
    except ValueError as error:
        raise _unusable(name, error) from error
    for detail in runner.inputs:
        if len(detail["shape"]) == 0 or detail["shape"][0] != 1:
            raise ValueError(f"{name} takes inputs of shape {tuple(detail['shape'])}; batches must be of 1.")

    def checked(run: Predict) -> Predict:
        def predict(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            try:
                return run(inputs)
            except (RuntimeError, ValueError) as error:  # a kernel that does not take these values, or a damaged file
                raise _unusable(name, error) from error

        return predict

    return Runnable(
        tuple(detail["name"] for detail in runner.inputs),
        tuple(tuple(int(size) for size in detail["shape"][1:]) for detail in runner.inputs),
        tuple("float32" if detail["quantization"][0] else np.dtype(detail["dtype"]).name for detail in runner.inputs),
        tuple(detail["name"] for detail in runner.outputs),
        checked(runner.predict_each),
        checked(lambda inputs: scores_of_file(content)(inputs)),
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


def forms_of(subjects: Sequence[Runnable]) -> Sequence[OutputForm]:
    """What the outputs hold, by the first Keras model, else by the first file; with the names of the first."""
    first = subjects[0]
    model = next((subject.model for subject in subjects if subject.model is not None), None)
    if model is not None:
        found: Sequence[OutputForm] = output_forms(Graph.from_keras(model))
    else:
        assert first.content is not None, "what is no Keras model is a file"
        found = [OutputForm("", has_classes) for has_classes in class_outputs(first.content)]
    return [dataclasses.replace(form, name=name) for form, name in zip(found, first.outputs, strict=True)]


def range_of(at: int, subjects: Sequence[Runnable], seed: int) -> InputRange | None:
    """Range of the reals of the input `at`: that of a file, else what a Keras model tells; None without either."""
    for subject in subjects:
        if (grid := subject.grids[at]) is not None:
            return grid
    for subject in subjects:
        if subject.model is not None:
            graph = separate(Graph.from_keras(subject.model)).graph
            return find_input_range(graph, graph.inputs[at], seed)
    return None
