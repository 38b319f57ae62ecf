"""How near one model's outputs are to another's, on inputs that need no labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tfdatafree.numerics.metrics import agreement, output_discrepancy, response_discrepancy, sqnr_db


@dataclass(frozen=True, kw_only=True)
class OutputComparison:
    """One output of both models.

    Attributes:
        name: In the first model.
        agreement: Share of inputs with the same argmax, 0 to 1; None where the last axis has one entry only.
        output_discrepancy: 0 (same direction) to 2 (opposite); Sobolev et al., FRanDI, eq. 3.
        response_discrepancy: The same without what all inputs have in common; None where there is one input only.
        sqnr_db: Energy of the first model's output over that of the difference.
    """

    name: str
    agreement: float | None
    output_discrepancy: float
    response_discrepancy: float | None
    sqnr_db: float


def compare_outputs(
    names: Iterable[str], references: Sequence[np.ndarray], found: Sequence[np.ndarray]
) -> tuple[OutputComparison, ...]:
    """One comparison per output.

    Args:
        names: Of the outputs.
        references, found: Arrays (n, ...), one per output, of both models in one order.
    """
    return tuple(
        OutputComparison(
            name=name,
            agreement=agreement(x, y) if _has_classes(x) else None,
            output_discrepancy=output_discrepancy(x, y),
            response_discrepancy=response_discrepancy(x, y) if len(x) > 1 else None,
            sqnr_db=sqnr_db(x, y),
        )
        for name, x, y in zip(names, references, found, strict=True)
    )


def _has_classes(output: np.ndarray) -> bool:
    """Whether an array (n, ...) holds at least two entries to choose from along its last axis."""
    return output.ndim > 1 and output.shape[-1] > 1
