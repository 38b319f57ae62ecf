"""The programs in tools/ run within the tests' own process: another one would spend seconds on importing TensorFlow."""

import contextlib
import io
import runpy
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from absl import app, flags


class Done(NamedTuple):
    """What a program left behind."""

    returncode: int
    stdout: str
    stderr: str


def run_tool(path: Path, *arguments: str) -> Done:
    """What `python path arguments` does, from the flags that it defines to its exit code."""
    app.define_help_flags()
    known = set(flags.FLAGS)
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", [str(path), *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            runpy.run_path(str(path), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
            if isinstance(code, str):  # Python prints such a text and ends with 1
                err.write(f"{code}\n")
                code = 1
        finally:  # the next program has flags of the same names
            for name in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, name)
    return Done(code, out.getvalue(), err.getvalue())
