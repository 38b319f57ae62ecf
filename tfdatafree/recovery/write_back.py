"""Puts new weights into the student as it was given: a Keras model, and the integer file of a `Compressed`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import keras

from tfdatafree.compressed import Compressed
from tfdatafree.errors import ExportError
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.recovery.problem import Problem
from tfdatafree.report.assemble import Change


@dataclass(frozen=True)
class Written:
    """A student with new weights.

    Attributes:
        model: The student with new weights, built as it was.
        compressed: The `Compressed` with new weights; None for any other student, or where no file could be written.
        reasons: Why no file could be written.
    """

    model: keras.Model
    compressed: Compressed | None
    reasons: dict[str, str] = field(default_factory=dict)


def write_back(
    student: "keras.Model | Compressed",
    problem: Problem,
    weights: Graph,
    *,
    grids: Mapping[str, Quantizer],
    change: Change,
    ranges: Mapping[str, Range] | None = None,
) -> Written:
    """`student` with the weights of a separated graph.

    Args:
        problem: The one that `student` posed.
        weights: The student's separated graph with other weights.
        grids: Layer -> grid that its kernel lies on, where that is new.
        change: What was done, for the report.
        ranges: Tensor -> new range, as for `Compressed.rewritten`.
    """
    compressed, reasons = None, {}
    if problem.file_grids and isinstance(student, Compressed):
        try:
            compressed = student.rewritten(
                with_weights(student.built.graph, weights),
                {**problem.file_grids, **grids},
                reference=problem.teacher_source,
                change=change,
                ranges=ranges,
            )
        except ExportError as error:
            reasons[problem.student_source.name] = f"no file was written: {error}"
    model = compressed.model if compressed else with_weights(problem.student_source, weights).to_keras()
    return Written(model, compressed, reasons)


def with_weights(source: Graph, separated: Graph) -> Graph:
    """`source` with the weights of `separated`, its separated form."""
    source = source.copy()
    for key, layer in source.layers.items():
        new = separated.layers.get(key)
        if new is None or not layer.weights:
            continue
        if layer.weight("pointwise_kernel") is not None:
            depthwise = next(
                other
                for name, other in separated.layers.items()
                if name.startswith(f"{key}_depthwise") and other.weights
            )
            weights = {"depthwise_kernel": depthwise.weights[0], "pointwise_kernel": new.weights[0]}
            if len(new.weights) > 1:
                weights["bias"] = new.weights[1]
            source.layers[key] = layer.with_weights(**weights)
        elif len(new.weights) == len(layer.weights):
            source.layers[key] = Layer(layer.operation, new.weights)
    return source
