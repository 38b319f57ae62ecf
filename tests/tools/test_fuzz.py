"""Tests of tools/fuzz.py, and with it: whatever is broken in a model file, only the package's own errors come out."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import fuzz

from tfdatafree.errors import LoadError

_FILES = 30


@pytest.mark.slow
def test_broken_files_end_in_the_errors_of_this_package():
    found = fuzz.fuzz(_FILES, seed=0)
    for kind, ends in found.items():
        assert ends.total() == _FILES
        assert [end for end in ends if end.startswith("WRONG")] == []
        assert ends["LoadError"] > _FILES / 2, f"most faults in a .{kind} are found"


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (TypeError("a bug"), "WRONG TypeError: a bug"),
        (LoadError("two\nlines"), r"WRONG message: 'two\\nlines'"),
        (ValueError("a" * 601), "WRONG"),
        (LoadError("one line"), "LoadError$"),
    ],
)
def test_errors_of_other_kinds_and_long_messages_are_found(error, end, monkeypatch):
    def failing(path):
        raise error

    monkeypatch.setattr("tfdatafree.model.load.load", failing)
    assert re.match(end, fuzz.reading(Path("x.keras")))


def test_the_same_seed_breaks_the_same_way():
    content = bytes(range(256)) * 4
    first, second, other = (fuzz.broken(content, "tflite", np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == second != other and first != content
