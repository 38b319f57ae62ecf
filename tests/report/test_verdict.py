"""Tests of the verdict."""

import pytest

from tfdatafree.numerics.expected_agreement import ExpectedAgreement
from tfdatafree.report.layer_row import LayerRow
from tfdatafree.report.outputs import OutputComparison
from tfdatafree.report.verdict import costly, judge


def row(name: str, damage: float | None) -> LayerRow:
    return LayerRow(name=name, operation="Conv2D", weight_bits=8, weight_scales=1, activation_bits=8, low=0.0, high=1.0,
                    sqnr_db=1.0, lsb=0, damage=damage)  # fmt: skip


ROWS = (row("in", 0.001), row("first", 0.02), row("bad", 0.3), row("last", None))


def output(share: float | None = None, sqnr: float = 40.0, name: str = "out") -> OutputComparison:
    known = None if share is None else ExpectedAgreement(share=share, low=share, high=share, inputs=128)
    return OutputComparison(
        name=name,
        agreement=None if share is None else 0.5,
        output_discrepancy=0.1,
        response_discrepancy=0.1,
        sqnr_db=sqnr,
        expected=known,
    )


@pytest.mark.parametrize(
    ("share", "sqnr", "grade"),
    [(0.99, 3, "good"), (0.9, 40, "usable"), (0.7, 40, "broken"), (None, 25, "good"), (None, 15, "usable"), (None, 3, "broken")],
)  # fmt: skip
def test_classes_are_judged_by_the_estimate_and_others_by_their_noise(share, sqnr, grade):
    found = judge([output(share, sqnr)], ROWS)
    assert found.grade == grade and ("bad" in found.words) == (grade != "good")
    assert ("agreement" in found.figure) == (share is not None)


def test_the_worst_output_decides_and_is_named():
    found = judge([output(0.99, name="a"), output(None, 4.0, name="b")])
    assert found.grade == "broken" and "'b'" in found.figure


def test_the_layer_to_look_at_is_the_one_that_costs_most():
    assert [ROWS[at].name for at in costly(ROWS)] == ["bad", "first"]


def test_where_no_cost_was_measured_no_layer_is_named():
    for rows in ([row("x", None)], [row("x", 1e-4)], []):
        assert judge([output(0.9)], rows).words == "usable"


def test_without_outputs_there_is_no_verdict():
    assert judge([]) is None
