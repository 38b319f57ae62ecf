"""Tests of tools/command.py and tools/own_process.py: how a tool starts, fails, measures and writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import command
import own_process

_TOOLS = Path(command.__file__).parent
_TOOL = """
import command
from absl import flags

def define_flags():
    flags.DEFINE_string("size", "1", "A number.")
    command.define_outputs("tables")

def main(values):
    with command.input_errors():
        size = float(values.size)
    command.write_json(values.json, {"size": size})
    command.write_text(values.markdown, f"{size}")
    return 0

command.run(main, define_flags)
"""


@pytest.mark.slow
def test_a_tool_writes_what_is_asked_for_and_tells_what_is_wrong(tmp_path):
    (tmp_path / "tool.py").write_text(_TOOL)

    def run(*arguments):
        program = [sys.executable, "tool.py", *arguments]
        environment = os.environ | {"PYTHONPATH": str(_TOOLS)}
        return subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert run().returncode == 0 and [path.name for path in tmp_path.glob("[!_]*")] == ["tool.py"]
    assert run("--size=2", "--json=a.json", "--markdown=a.md").returncode == 0
    assert json.loads((tmp_path / "a.json").read_text()) == {"size": 2} and (tmp_path / "a.md").read_text() == "2.0"
    wrong = run("--size=two")
    assert wrong.returncode == 1 and wrong.stderr == "error: could not convert string to float: 'two'\n"
    assert "Unexpected argument 'more'" in run("more").stderr


def test_choices_keep_the_order_of_what_is_known():
    assert command.choose("bits", ["4", "8"], ["8", "6", "4"]) == ["8", "4"]
    with pytest.raises(ValueError, match="--bits=8,9: unknown 9; choose of 8, 6, 4"):
        command.choose("bits", ["8", "9"], ["8", "6", "4"])
    with pytest.raises(ValueError, match="choose of 8, 6, 4"):
        command.choose("bits", [], ["8", "6", "4"])


def test_a_measurement_has_its_own_process_and_its_failure_is_a_row():
    assert own_process.run(os.getpid) != os.getpid()
    assert own_process.run_row(dict, [("n", 1)]) == {"n": 1}
    assert own_process.run_row(int, "x") == {"error": "ValueError: invalid literal for int() with base 10: 'x'"}
