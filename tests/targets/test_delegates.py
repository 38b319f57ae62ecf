"""Every profile agrees with `delegates.csv`: which operators a delegate takes, by type and number of axes.

A row is what a delegate or compiler was seen to take of one-operator files (`operator_cases.py`), or what its document lists,
with the date. To measure again, run the delegate on the files of `operator_cases.quantized`. Where a new version takes more or
less, the row changes first, and then the profile.
"""

import csv
from datetime import date
from pathlib import Path

import pytest
from ai_edge_litert.interpreter import Interpreter
from operator_cases import CASES, quantized

from tfdatafree.targets.check import check_target, refusals
from tfdatafree.targets.registry import TARGETS
from tfdatafree.targets.target import Target
from tfdatafree.tflite.flatbuffer import OPERATOR_CODES
from tfdatafree.tflite.operators import OPERATORS

ROWS = list(csv.DictReader((Path(__file__).parent / "delegates.csv").read_text().splitlines()))
# "generic" takes all. The documents of the others are not at hand in a form that lists operators once more.
WITHOUT_ROWS = {"generic", "nnapi", "stm32n6", "google-tensor"}
# What an operator writes, where it is of another type than what it reads.
_WRITES = {
    **dict.fromkeys(("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"), "bool"),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "TOPK_V2"), "int32"),
}


def taken(name: str, dtype: str, target: Target, axes: int = 4) -> bool:
    """Whether a profile takes an operator with tensors of one type, an easy one in all other respects."""
    types = tuple(dict.fromkeys((dtype, _WRITES.get(name, dtype))))
    weights = "float32" if dtype == "float32" else "int8"
    facts = {"types": types, "input_type": dtype, "weight_type": weights, "weight_steps": 1, "rank": axes}
    return not list(refusals(name, facts, target))


def looked_at(row: dict[str, str]) -> set[str]:
    """The operators that the row says something about."""
    if row["how"] == "document":
        return set(OPERATOR_CODES)
    bits = {"int8": 8, "int16": 16}.get(row["type"])
    return set(CASES) if bits is None else {name for name in CASES if bits in OPERATORS[name].versions} | {"QUANTIZE"}


def contradictions(row: dict[str, str], target: Target) -> set[str]:
    found = {name for name in looked_at(row) if taken(name, row["type"], target)}
    return found ^ (set(row["operators"].split()) & looked_at(row))


def test_the_table_has_every_target_and_says_whence_and_when():
    assert {row["target"] for row in ROWS} | WITHOUT_ROWS == set(TARGETS)
    assert len({(row["target"], row["type"]) for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row["source"] and date.fromisoformat(row["date"]) and row["how"] in ("measured", "document")
        assert row["type"] in ("int8", "int16", "float32") and set(row["operators"].split()) <= looked_at(row)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['target']} {row['type']}")
def test_no_profile_contradicts_the_table(row):
    target = TARGETS[row["target"]]
    assert contradictions(row, target) == set()
    if row["axes"]:
        axes = int(row["axes"])
        assert taken("RESHAPE", row["type"], target, axes)
        known = any(limit.fact == "rank" and limit.high == axes for limit in target.limits if not limit.operators)
        assert taken("RESHAPE", row["type"], target, axes + 1) != known


def test_a_contradiction_would_be_seen():
    row = next(row for row in ROWS if (row["target"], row["type"]) == ("xnnpack", "int8"))
    assert contradictions({**row, "operators": row["operators"].replace("ADD ", "")}, TARGETS["xnnpack"]) == {"ADD"}
    assert contradictions({**row, "operators": row["operators"] + " ABS"}, TARGETS["xnnpack"]) == {"ABS"}
    assert "CONV_2D" in contradictions({**row, "type": "int16"}, TARGETS["xnnpack"])


@pytest.mark.parametrize("name", ["CONV_2D", "SOFTMAX", "MEAN", "RELU6"])
@pytest.mark.slow
def test_xnnpack_itself_says_so(name):
    """The delegate of the installed LiteRT, on this machine."""
    exact, eight = quantized(CASES[name], 8)
    _, sixteen = quantized(CASES[name], 16)
    for content in (exact, eight.content, sixteen.content):
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        handed = any(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details())
        assert handed == (not check_target(content, TARGETS["xnnpack"]).refused)
