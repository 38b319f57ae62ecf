"""How many inputs are generated: as many as asked for, unless the network is so large that they would take minutes."""

import pytest
from tiny_models import build, folded

from tfdatafree import compress
from tfdatafree.inputs import make
from tfdatafree.inputs.make import affordable
from tfdatafree.model.multiplications import multiplications


def test_small_networks_get_what_is_asked_for():
    assert affordable(folded("plain"), 32) == 32 and affordable(folded("plain"), 1000) == 1000


@pytest.mark.parametrize("together, expected", [(0, 4), (4.5, 4), (20.5, 20), (33, 32)])
def test_large_networks_get_fewer_but_never_less_than_four(together, expected, monkeypatch):
    graph = folded("plain")
    monkeypatch.setattr(make, "_MOST_MULTIPLICATIONS", int(together * multiplications(graph)))
    assert affordable(graph, 32) == expected and affordable(graph, 3) == 3


@pytest.mark.slow
def test_the_report_says_how_many(monkeypatch):
    monkeypatch.setattr(make, "_MOST_MULTIPLICATIONS", 0)
    report = compress(build("plain"), input_range=(-1, 1), verbose=0).report
    assert report.generated.startswith("4 procedural images") and report.compared == 4
