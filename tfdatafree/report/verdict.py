"""The verdict on a compressed model, in words and one figure.

    classes      the share of decisions that stay on real inputs: from 95 % on as good as float, under 80 % broken
    others       SQNR of the worst output, or part of one: from 20 dB on as good as float, under 6 dB broken
                                       (20 dB: the noise is a tenth of the results; 6 dB: half of them)

What lies between is usable. The layer to look at is the one whose own rounding costs the results most, as
`measuring/own_damage.py` has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tfdatafree.numerics.fidelity import KEPT_AGREEMENT, LEAST_AGREEMENT, LEAST_SQNR_DB
from tfdatafree.report.layer_row import LayerRow
from tfdatafree.report.outputs import OutputComparison

Grade = Literal["good", "usable", "broken"]
GOOD_SQNR_DB = 20.0
# A smaller part of the results' error than this needs no look.
_HARMLESS = 0.01
_WORDS: dict[Grade, str] = {"good": "as good as the float model", "usable": "usable", "broken": "broken"}
_ORDER: tuple[Grade, ...] = ("broken", "usable", "good")


@dataclass(frozen=True)
class Verdict:
    """The verdict on all outputs of a model.

    Attributes:
        grade: "good", "usable" or "broken": that of the worst output.
        words: The grade in words, with the layer to look at unless it is "good".
        figure: What it rests on.
    """

    grade: Grade
    words: str
    figure: str

    def __str__(self) -> str:
        return f"{self.words}; {self.figure}"


def judge(outputs: Sequence[OutputComparison], rows: Sequence[LayerRow] = ()) -> Verdict | None:
    """The verdict on compared outputs; None if there are none.

    Args:
        rows: The tensors of the file, from which the layer to look at is chosen.
    """
    if not outputs:
        return None
    worst = min(outputs, key=lambda output: (_ORDER.index(grade_of(output)), _quality(output)))
    grade = grade_of(worst)
    words, places = _WORDS[grade], costly(rows)
    if grade != "good" and places:
        place = rows[places[0]].name
        words += f", look at '{place}'" if grade == "usable" else f": '{place}' costs most"
    of = f"of '{worst.name}' " if len(outputs) > 1 else ""
    if worst.expected is not None:
        return Verdict(grade, words, f"agreement {of}with float: {worst.expected}")
    sqnr = worst.worst.sqnr_db
    return Verdict(grade, words, f"SQNR {of}{'without any noise' if np.isposinf(sqnr) else f'{sqnr:.1f} dB'}")


def costly(rows: Sequence[LayerRow]) -> list[int]:
    """Positions of the rows that cost the results something, the costliest first; [] where no cost was measured."""
    costs = sorted(((row.damage, at) for at, row in enumerate(rows) if row.damage is not None), reverse=True)
    return [at for cost, at in costs if cost >= _HARMLESS]


def grade_of(output: OutputComparison) -> Grade:
    """The grade of one output."""
    if output.expected is not None:
        share = output.expected.share
        return "good" if share >= KEPT_AGREEMENT else "usable" if share >= LEAST_AGREEMENT else "broken"
    sqnr = output.worst.sqnr_db
    return "good" if sqnr >= GOOD_SQNR_DB else "usable" if sqnr >= LEAST_SQNR_DB else "broken"


def _quality(output: OutputComparison) -> float:
    """The part of the decisions, or of the energy of the results, that is kept; at most 1."""
    if output.expected is not None:
        return output.expected.share
    return 1 - 10 ** (-max(output.worst.sqnr_db, 0.0) / 10)
