"""Compares the outputs of two models on inputs without labels.

An output that joins branches, as a detector's boxes and scores, is also compared branch by branch. So is one whose channels have
ranges of very different widths: the wide and the narrow channels apart.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfdatafree.canonical.separate import separate
from tfdatafree.model.classes import class_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.model.joins import Part, parts_of
from tfdatafree.numerics.expected_agreement import ExpectedAgreement
from tfdatafree.numerics.metrics import agreement, output_discrepancy, response_discrepancy, sqnr_db
from tfdatafree.quantization.uneven import UNEVEN

# Runs of channels that a name lists.
_LISTED = 4
_STEPS = 255


@dataclass(frozen=True)
class OutputForm:
    """What an output holds.

    Attributes:
        name: Name of the output.
        has_classes: Whether its largest entry along the last axis chooses a class.
        parts: The branches that it joins, and whether each has classes.
    """

    name: str
    has_classes: bool = False
    parts: tuple[tuple[Part, bool], ...] = ()


@dataclass(frozen=True, kw_only=True)
class OutputComparison:
    """One output of both models, or a part of it.

    Attributes:
        name: Name in the first model.
        agreement: Fraction of inputs (of positions in a map) with the same argmax, 0 to 1; None for outputs without classes.
        output_discrepancy: 0 (same direction) to 2 (opposite); Sobolev et al., FRanDI, eq. 3.
        response_discrepancy: The same without what all inputs have in common; None if there is only one input.
        sqnr_db: Energy of the first model's output over that of the difference, in dB.
        step: The step that 8 bits would give to the range of the first model's output.
        parts: The branches that the output joins, or its narrow and its wide channels; () for an output of one piece.
        expected: The share of decisions that stay on real inputs; None for an output that is not one vector of classes.
    """

    name: str
    agreement: float | None
    output_discrepancy: float
    response_discrepancy: float | None
    sqnr_db: float
    step: float = 0.0
    parts: tuple["OutputComparison", ...] = ()
    expected: ExpectedAgreement | None = None

    @property
    def worst(self) -> "OutputComparison":
        """The part with the lowest SQNR, or the output itself if there is none lower."""
        return min((self, *self.parts), key=lambda part: part.sqnr_db)


def output_forms(source: Graph) -> tuple[OutputForm, ...]:
    """The form of each output of a model as it was read, with its BatchNorms."""
    graph = separate(source).graph
    parts = [parts_of(graph, tensor) for tensor in graph.outputs]
    branches = [part.tensor for some in parts for part in some]
    classes = class_tensors(graph, [*graph.outputs, *branches])
    return tuple(
        OutputForm(name, tensor in classes, tuple((part, part.tensor in classes) for part in some))
        for name, tensor, some in zip(source.output_names, graph.outputs, parts, strict=True)
    )


def compare_outputs(
    forms: Sequence[OutputForm],
    references: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
    expected: Sequence[ExpectedAgreement | None] = (),
) -> tuple[OutputComparison, ...]:
    """One comparison per output.

    Args:
        forms: What the outputs hold.
        references, results: Outputs of both models in the same order, arrays (n, ...).
        expected: What is known of each output on real inputs; () if nothing is.
    """
    known = expected or [None] * len(forms)
    return tuple(
        dataclasses.replace(_compare(form.name, x, y, form.has_classes, _compare_parts(form, x, y)), expected=share)
        for form, x, y, share in zip(forms, references, results, known, strict=True)
    )


def _compare(
    name: str, x: np.ndarray, y: np.ndarray, has_classes: bool, parts: tuple[OutputComparison, ...] = ()
) -> OutputComparison:
    return OutputComparison(
        name=name,
        agreement=agreement(x, y) if has_classes else None,
        output_discrepancy=output_discrepancy(x, y),
        response_discrepancy=response_discrepancy(x, y) if len(x) > 1 else None,
        sqnr_db=sqnr_db(x, y),
        step=(max(float(x.max()), 0.0) - min(float(x.min()), 0.0)) / _STEPS,
        parts=parts,
    )


def _compare_parts(form: OutputForm, x: np.ndarray, y: np.ndarray) -> tuple[OutputComparison, ...]:
    if form.parts:
        if math.prod(x.shape[1:]) != sum(part.places.size for part, _ in form.parts):
            return ()
        return tuple(_compare(part.name, part.of(x), part.of(y), classes) for part, classes in form.parts)
    if form.has_classes:
        return ()
    return tuple(_compare(part.name, part.of(x), part.of(y), False) for part in channel_parts(x))


def channel_parts(values: np.ndarray, tensor: str = "") -> tuple[Part, ...]:
    """The narrow channels of `values` (n, ..., channels), and the others; () if there are no narrow ones.

    A channel is narrow if its own 8-bit step would be more than 8 times finer than the step of all channels together.

    Args:
        tensor: What the parts are parts of.
    """
    if values.ndim < 2 or not values.size:
        return ()
    rows = values.reshape(-1, values.shape[-1])
    highs, lows = np.maximum(rows.max(axis=0), 0), np.minimum(rows.min(axis=0), 0)
    reach = highs - lows
    narrow = (reach > 0) & (reach * UNEVEN < highs.max() - lows.min())
    if not narrow.any():
        return ()
    places = np.arange(values[0].size).reshape(values.shape[1:])
    groups = (np.flatnonzero(narrow), np.flatnonzero(~narrow))
    return tuple(
        Part(tensor, _channels(group), places[..., group].shape, places[..., group].reshape(-1)) for group in groups
    )


def _channels(channels: np.ndarray) -> str:
    """The channels as text: "channels 0-3, 9"."""
    runs = np.split(channels, np.flatnonzero(np.diff(channels) > 1) + 1)
    texts = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    rest = sum(map(len, runs[_LISTED:]))
    shown = ", ".join(texts[:_LISTED]) + (f" and {rest} more" if rest else "")
    return f"channel {shown}" if len(channels) == 1 else f"channels {shown}"
