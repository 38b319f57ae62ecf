"""Tests of tools/zoo.py: its flags, its choice of models, and what it reads from the folder."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import MODELS

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import evaluate
import zoo

_TOOLS = Path(zoo.__file__).parent


def test_models_and_images_are_those_of_the_folder(tmp_path):
    model = MODELS["plain"]()
    model.save(tmp_path / "net.keras")
    for name, offset in (("data", 0), ("calibration", 100)):
        x = np.arange(offset, offset + 12, dtype=np.uint8).reshape(4, 1, 1, 3)
        np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(4) + offset)
    subject = zoo.Subject(name="n", file="net.keras", data="data.npz", preprocess="tf", calibration="calibration.npz")
    for saved, read in zip(model.get_weights(), subject.load_model(tmp_path).get_weights(), strict=True):
        np.testing.assert_array_equal(saved, read)
    x, y = subject.load_labelled(tmp_path, 2)
    assert x.dtype == np.uint8 and x[:, 0, 0, 0].tolist() == [0, 6] and y.tolist() == [0, 2]
    x, y = subject.load_calibration(tmp_path)
    np.testing.assert_array_equal(x, evaluate.preprocess(np.arange(100, 112).reshape(4, 1, 1, 3), "tf"))
    assert y.tolist() == [100, 101, 102, 103] and subject.input_range == (-1, 1)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    assert zoo.find_folder(str(tmp_path)) == tmp_path
    with pytest.raises(ValueError, match="There is no folder 'nowhere'; give --zoo"):
        zoo.find_folder("nowhere")


def test_subjects_come_in_the_order_of_the_zoo():
    assert [subject.name for subject in zoo.choose_subjects(["mobilenet_v2", "resnet8"])] == ["resnet8", "mobilenet_v2"]
    with pytest.raises(ValueError, match="--models=resnet8,resnet9: unknown resnet9; choose of resnet8, resnet20"):
        zoo.choose_subjects(["resnet8", "resnet9"])


@pytest.mark.slow
def test_every_tool_shows_the_flags_in_its_own_help():
    for tool in ("benchmark", "od_correlation"):
        command = [sys.executable, str(_TOOLS / f"{tool}.py"), "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        assert all(f"--{flag}:" in shown for flag in ("zoo", "json", "markdown"))
        assert ("--models:" in shown) == (tool == "benchmark") != ("--model:" in shown)
