"""Tests of tools/world.py on a folder with a tiny model of two inputs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from run_tool import run_tool
from tiny_models import build, random_inputs

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import own_process

_TOOL = Path(__file__).resolve().parents[2] / "tools" / "world.py"


@pytest.mark.slow
def test_a_folder_of_models_becomes_a_table(tmp_path, monkeypatch):
    # That a measurement has a process of its own is another file's subject, and this one is as good.
    monkeypatch.setattr(own_process, "run", lambda function, *arguments: function(*arguments))
    model = build("two_inputs")
    model.save(tmp_path / "two.keras")
    left, right = (np.clip(array, -2, 2).astype(np.float16) for array in random_inputs(model, 8))
    np.savez(tmp_path / "two.npz", right=10 * right, left=left)
    (tmp_path / "alone.keras").write_bytes(b"no inputs beside it")
    done = run_tool(
        _TOOL,
        f"--folder={tmp_path}",
        f"--json={tmp_path}/a.json",
        f"--markdown={tmp_path}/a.md",
        "--rows=ptq,range,data",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [(row["model"], row["row"]) for row in rows] == [("two", "ptq"), ("two", "range"), ("two", "data")]
    assert all(row["sqnr_db"] > 15 and 0 <= row["agreement"] <= 1 for row in rows)
    assert (
        rows[1]["input_range"].startswith("left: [-2, 2], given")
        and "right: [-20, 20], given" in rows[1]["input_range"]
    )
    table = (tmp_path / "a.md").read_text().splitlines()
    assert table[0] == "| model | ptq | range | data |" and table[2].startswith("| two | ") and len(table) == 3


def test_what_is_wrong_is_told(tmp_path):
    done = run_tool(_TOOL, f"--folder={tmp_path}")
    assert done.returncode == 1 and "no model there has an .npz of its name" in done.stderr
    done = run_tool(_TOOL, f"--folder={tmp_path}", "--rows=none")
    assert done.returncode == 1 and "--rows=none: unknown none" in done.stderr
