"""The share of decisions that stay on real inputs, for each output that chooses a class per input.

It is estimated from generated inputs (`numerics/expected_agreement.py`), and counted on real ones.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tfdatafree.export.build import Built
from tfdatafree.export.run import predict_as_written
from tfdatafree.inputs.make import affordable, make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRanges
from tfdatafree.numerics.expected_agreement import (
    ESTIMATE_INPUTS,
    ExpectedAgreement,
    counted_agreement,
    expected_agreement,
)
from tfdatafree.report.outputs import OutputForm
from tfdatafree.tflite.classes import with_scores
from tfdatafree.tflite.runtime import Runner

# Inputs -> outputs, arrays (n, ...).
Predict = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
# Makes inputs, arrays (n, ...).
Draw = Callable[[], Sequence[np.ndarray]]
# The estimate of one file is the same whatever else is drawn with the user's seed.
ESTIMATE_SEED = 700_000
_FEWEST = 8
_LEAST_PROBABILITY = 1e-30


def inputs_to_estimate(graph: Graph, ranges: InputRanges) -> list[np.ndarray]:
    """The generated inputs of the estimate, one array (n, *shape) per input of the separated `graph`."""
    return make_inputs(graph, affordable(graph, ESTIMATE_INPUTS), ranges, seed=ESTIMATE_SEED)


def chooses(forms: Sequence[OutputForm], outputs: Sequence[np.ndarray]) -> list[bool]:
    """Whether each output chooses one class per input; not those without classes, or with one decision per position."""
    return [form.has_classes and output.ndim == 2 for form, output in zip(forms, outputs, strict=True)]


def estimate(
    decides: Sequence[bool], reference: Predict, result: Predict, draw: Draw
) -> list[ExpectedAgreement | None]:
    """The estimate for each output that decides; None for others, and where no more than a few inputs can be run.

    Args:
        decides: Of each output, by `chooses`.
        reference: The float model.
        result: The compressed model; its outputs are scores or probabilities (`scores_as_written`).
        draw: Makes the generated inputs; not called without need.
    """
    inputs = draw() if any(decides) else []
    if not inputs or len(inputs[0]) < _FEWEST:
        return [None] * len(decides)
    return _judged(expected_agreement, decides, reference(inputs), result(inputs))


def count(
    decides: Sequence[bool], references: Sequence[np.ndarray], results: Sequence[np.ndarray]
) -> list[ExpectedAgreement | None]:
    """The share for each output that decides, counted on the outputs (n, ...) of both models for real inputs; else None."""
    return _judged(counted_agreement, decides, references, results)


def _judged(
    judge: Callable[[np.ndarray, np.ndarray], ExpectedAgreement],
    decides: Sequence[bool],
    references: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
) -> list[ExpectedAgreement | None]:
    pairs = zip(decides, references, results, strict=True)
    return [
        judge(class_scores(x), class_scores(y)) if decided and x.shape == y.shape else None for decided, x, y in pairs
    ]


def scores_as_written(built: Built) -> Predict:
    """Runs what was built; outputs that end in a softmax are the scores that it reads, where there is a file."""
    if built.content is None or built.tail is not None:
        return lambda inputs: predict_as_written(built, inputs)
    return scores_of_file(built.content)


def scores_of_file(content: bytes) -> Predict:
    """Runs a file; outputs that end in a softmax are the scores that it reads."""
    return Runner(with_scores(content)).predict_each


def class_scores(outputs: np.ndarray) -> np.ndarray:
    """Scores as they are; the logarithm of probabilities, which is their scores up to a constant."""
    if outputs.min(initial=0) < 0 or not np.allclose(outputs.sum(axis=-1), 1, atol=0.05):
        return outputs
    return np.log(np.maximum(outputs.astype(np.float64), _LEAST_PROBABILITY))
