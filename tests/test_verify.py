"""verify() finds what a runtime computes otherwise, and names it."""

import dataclasses

import keras
import numpy as np
import pytest
from tiny_models import build, compressed

import tfdatafree
from tfdatafree.runtimes import registry
from tfdatafree.runtimes.registry import RUNTIMES
from tfdatafree.runtimes.runtime import Runtime, RuntimeFailure
from tfdatafree.tflite.flatbuffer import File

pytestmark = pytest.mark.slow


@pytest.fixture
def content() -> bytes:
    return compressed("branch_add").tflite


def result_of(verification, runtime: str):
    return next(result for result in verification.results if result.runtime == runtime)


def replace_runtime(monkeypatch, name: str, **changes) -> None:
    monkeypatch.setitem(RUNTIMES, name, dataclasses.replace(RUNTIMES[name], **changes))


def test_the_package_computes_the_integers_of_the_reference_kernels(content):
    found = tfdatafree.verify(content, against=build("branch_add"), runtimes=["simulation"])
    own = result_of(found, "simulation")
    operators = File.parse(content).operators
    assert (own.share, own.largest, own.differing, own.compared) == (0, 0, 0, len(operators))
    assert found.results[0].runtime == "litert-reference" and own.sqnr_db == found.results[0].sqnr_db > 10
    assert not found.differing and "0.00%" in str(found)


def test_the_first_tensor_that_differs_is_named(content, monkeypatch):
    """A runtime that is one step off at one tensor, and therefore behind it."""
    file = File.parse(content)
    middle = len(file.operators) // 2
    wrong = file.operators[middle].outputs[0]

    class Session:
        def __init__(self, content):
            self._session = RUNTIMES["litert-reference"].open(content)

        def run(self, inputs):
            found = dict(self._session.run(inputs))
            for operator in file.operators[middle:]:
                for index in operator.outputs:
                    found[index] = np.where(found[index] > 0, found[index] - 1, found[index] + 1)
            return found

    replace_runtime(monkeypatch, "openvino", open=Session, missing=lambda: "")
    found = result_of(tfdatafree.verify(content, runtimes=["openvino"], n=2), "openvino")
    assert found.first == f"'{file.name(wrong)}' ({file.operator_name(file.operators[middle])})"
    assert (found.largest, found.share, found.differing) == (1, 1, len(file.operators) - middle)


def test_what_is_not_there_or_fails_is_a_line_of_the_table(content, monkeypatch):
    def fails(content: bytes):
        raise RuntimeFailure("no kernel for CONV_2D")

    replace_runtime(monkeypatch, "openvino", open=fails, missing=lambda: "")
    replace_runtime(monkeypatch, "tosa", missing=lambda: "not installed: do this")
    found = tfdatafree.verify(content, n=1, runtimes=["openvino", "tosa"])
    assert result_of(found, "openvino").problem == "cannot run it: no kernel for CONV_2D"
    lines = str(found).splitlines()
    assert any(line.startswith("tosa") and line.endswith("not installed: do this") for line in lines)


def test_xnnpack_is_compared_by_its_outputs(content):
    found = result_of(tfdatafree.verify(content, n=2, runtimes=["litert"]), "litert")
    assert not found.problem and found.compared == 0 and found.largest <= 3


def test_bad_input_is_one_clear_error(content, tmp_path):
    with pytest.raises(ValueError, match="n is 0; give a whole number of at least 1"):
        tfdatafree.verify(content, n=0)
    with pytest.raises(ValueError, match="runtime is 'lite'; did you mean 'litert'"):
        tfdatafree.verify(content, runtimes=["lite"])
    other = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"takes inputs of shape \[\(4, 4, 3\)\], the file of"):
        tfdatafree.verify(content, against=other, n=1)
    with pytest.raises(tfdatafree.LoadError, match="the file cannot be run"):
        tfdatafree.verify(content[: len(content) // 2])
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"have shape \(2, 3\); give \(n, "):
        tfdatafree.verify(content, data=tmp_path / "x.npy")


def test_every_runtime_is_listed_under_its_name():
    assert registry.BASELINE.name == "litert-reference"
    assert all(isinstance(runtime, Runtime) and runtime.name == name for name, runtime in RUNTIMES.items())
