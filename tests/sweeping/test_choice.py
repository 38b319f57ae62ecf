"""The front and the recommendation: what no budget could do better."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdatafree.sweeping.choice import Budget, choose, front
from tfdatafree.sweeping.figures import COLUMNS
from tfdatafree.sweeping.page import sweep_page
from tfdatafree.sweeping.plot import scatter


def row(size: int, loss: float, **others) -> dict:
    known = {"model": "net", "recipe": "int8", "target": "generic", "error": "", "bytes": size, "loss": loss}
    known |= {"gzip_bytes": size, "float_bytes": 10**6, "zeros": 0.0, "front": "", "recommended": False}
    known |= {"file": "f", "report": "r", "recipe_file": "c"}
    return dict.fromkeys(COLUMNS) | known | others


ROWS = st.lists(st.builds(row, st.integers(1, 9), st.sampled_from([0.1, 0.2, 0.3, 0.4])), min_size=1, max_size=12)


@given(ROWS)
def test_what_is_on_the_front_and_nothing_else_is_beaten_by_nobody(rows):
    on = {id(kept) for kept in front(rows, "bytes")}
    for one in rows:
        beaten = any(
            (other["bytes"] <= one["bytes"] and other["loss"] <= one["loss"])
            and (other["bytes"] < one["bytes"] or other["loss"] < one["loss"])
            for other in rows
        )
        assert beaten == (id(one) not in on)


@given(ROWS, st.integers(1, 10))
def test_the_choice_is_the_best_within_the_budget(rows, most):
    taken = choose(rows, Budget(max_bytes=most)).row
    within = [one for one in rows if one["bytes"] <= most]
    assert (taken is None) == (not within)
    if taken is not None:
        assert taken["bytes"] <= most and taken["loss"] == min(one["loss"] for one in within)
        assert any(taken is kept for kept in front(rows, "bytes")), "of equally good ones the smallest"


def test_without_a_limit_of_costs_the_smallest_that_is_good_enough_is_taken():
    rows = [
        row(3, 0.3, estimated_agreement=0.8),
        row(5, 0.2, estimated_agreement=0.95),
        row(7, 0.1, estimated_agreement=0.99),
    ]
    assert choose(rows, Budget(min_agreement=0.9)).row is rows[1]
    assert choose(rows, Budget(min_agreement=0.9, max_bytes=7)).row is rows[2]
    assert "the best has 99.0%" in choose(rows, Budget(min_agreement=1.0)).why


def test_what_cannot_be_had_is_told():
    rows = [row(300, 0.2, sparsity=0.5), row(100, 0.1, error="LoadError: broken")]
    assert choose(rows, Budget()).row is None and "no budget was stated" in choose(rows, Budget()).why
    assert (
        "no file takes at most 200 bytes; the least is 300 bytes, by int8, sparsity 0.5"
        == choose(rows, Budget(max_bytes=200)).why
    )
    assert "no time is known" in choose(rows, Budget(max_ms=1)).why
    assert choose(rows[1:], Budget(max_bytes=200)).why == "no file was made"
    timed = [row(300, 0.2, npu_ms=2.0, cpu_ms=0.1), row(200, 0.3, npu_ms=0.5, cpu_ms=9.0)]
    assert choose(timed, Budget(max_ms=1)).row is timed[1], "the target's own time counts"


@pytest.mark.parametrize("options", [{"max_bytes": 0}, {"max_ms": -1}, {"min_agreement": 95}, {"max_gzip_bytes": True}])
def test_a_wrong_budget_is_refused(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} is .*; give a "):
        Budget(**options)


# The page ---------------------------------------------------------------------------------------------------------------


def test_the_page_shows_every_point_and_escapes_what_comes_from_outside():
    hostile = "<script>alert(1)</script>"
    rows = [
        row(300, 0.2, model=hostile),
        row(200, 0.3, model=hostile),
        row(0, 0, model=hostile, error=f"ValueError: {hostile}"),
    ]
    choice = choose(rows, Budget(max_bytes=400))
    rows[0]["recommended"] = True
    page = sweep_page(rows, {(hostile, "generic"): choice}, Budget(max_bytes=250))
    assert hostile not in page and page.count("&lt;script&gt;") == 2
    assert page.count("<circle") == 4, "two files, by bytes and after gzip"
    assert page.count('href="r"') == 6 and page.count('href="f"') == page.count('href="c"') == 2
    assert page.count('class="limit"') == 1 and 'class="on best"' in page and "Take int8" in page


@given(st.lists(st.tuples(st.floats(1, 1e7), st.floats(0, 2)), min_size=1, max_size=8))
def test_every_point_is_inside_the_plot(places):
    points = [{"x": x, "y": y, "number": 1, "title": "", "link": "", "best": False} for x, y in places]
    drawn = scatter(points, sorted(places)[:1], x_label="x", y_label="y", limit=5.0)
    inside = [part.split('"')[:4] for part in drawn.split('<circle cx="')[1:]]
    assert len(inside) == len(points)
    assert all(62 <= float(x) <= 544 and 14 <= float(y) <= 276 for x, _, y, _ in inside)
