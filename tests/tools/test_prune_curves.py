import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import prune_curves

from tfdatafree.recipe.prune import PRUNE_METHODS, Prune

ROWS = [
    {"model": "net", "method": "float", "sparsity": 0.0, "top1": 0.9},
    {"model": "net", "method": "obs", "sparsity": 0.5, "top1": 0.85, "agreement": 0.93},
    {"model": "net", "method": "obs", "sparsity": 0.7, "error": "ValueError: no"},
]


def test_every_method_is_one_that_the_package_has_and_none_is_missing():
    for options, _ in prune_curves.METHODS.values():
        Prune(sparsity=0.5, **options)
    assert {options["method"] for options, _ in prune_curves.METHODS.values()} == set(PRUNE_METHODS)


def test_the_table_has_a_cell_for_each_sparsity_and_says_what_failed():
    assert prune_curves.markdown(ROWS, [0.5, 0.7]).splitlines() == [
        "| net, float 90.00 % | 50 % | 70 % |",
        "|---|---:|---:|",
        "| obs | 85.00 / 0.930 | failed |",
        "",
    ]


def test_the_curves_become_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "curves.png"
    prune_curves.plot(ROWS, str(path))
    assert path.read_bytes().startswith(b"\x89PNG")
