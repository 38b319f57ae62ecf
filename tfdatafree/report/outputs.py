"""Compares the outputs of two models on inputs without labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tfdatafree.numerics.metrics import agreement, output_discrepancy, response_discrepancy, sqnr_db


@dataclass(frozen=True, kw_only=True)
class OutputComparison:
    """One output of both models.

    Attributes:
        name: Name in the first model.
        agreement: Fraction of inputs with the same argmax, 0 to 1; None if the last axis has only one entry.
        output_discrepancy: 0 (same direction) to 2 (opposite); Sobolev et al., FRanDI, eq. 3.
        response_discrepancy: The same without what all inputs have in common; None if there is only one input.
        sqnr_db: Energy of the first model's output over that of the difference, in dB.
    """

    name: str
    agreement: float | None
    output_discrepancy: float
    response_discrepancy: float | None
    sqnr_db: float


def compare_outputs(
    names: Iterable[str], references: Sequence[np.ndarray], results: Sequence[np.ndarray]
) -> tuple[OutputComparison, ...]:
    """One comparison per output.

    Args:
        names: Names of the outputs.
        references, results: Outputs of both models in the same order, arrays (n, ...).
    """
    return tuple(
        OutputComparison(
            name=name,
            agreement=agreement(x, y) if _has_classes(x) else None,
            output_discrepancy=output_discrepancy(x, y),
            response_discrepancy=response_discrepancy(x, y) if len(x) > 1 else None,
            sqnr_db=sqnr_db(x, y),
        )
        for name, x, y in zip(names, references, results, strict=True)
    )


def _has_classes(output: np.ndarray) -> bool:
    """Whether the last axis of an array (n, ...) has at least two entries, so that an argmax chooses one."""
    return output.ndim > 1 and output.shape[-1] > 1
