"""tools/applications.py names the operators that a file has beyond the converter's."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import applications
import layer_kinds


def row(**changes) -> dict:
    kinds = {"CONV_2D": 2, "QUANTIZE": 1}
    return {"family": "F", "operators": 3, "kinds": kinds, "converter": 2, "converter_kinds": {"CONV_2D": 2}} | changes


def test_more_operators_than_the_converters_are_named():
    (line,) = applications.reasons(row(converter_float=0))
    assert line == "- F: more operators than the converter's file: +1 QUANTIZE"
    (line,) = applications.reasons(row(converter_float=1))
    assert "which has 1 in float" in line


def test_as_many_and_fewer_are_not():
    assert applications.reasons(row(converter=3)) == applications.reasons(row(converter=None)) == []


def test_a_kind_is_a_network_between_two_convolutions():
    names = [layer.name for layer in layer_kinds.build("upsampling 3, nearest", seed=0).layers]
    assert names[1] == "before" and names[-1] == "after" and len(names) == 4
