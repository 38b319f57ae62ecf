"""The command line as a program: what reaches a pipe or a terminal, Ctrl-C, and what importing the package alone does."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import keras
import pytest
from progress_bar import frames, without_progress
from tiny_models import QUICK, build, compressed

from tfdatafree import Recipe, compress

pytestmark = pytest.mark.slow
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo terminal")

# An open model is read with a note.
NOTED = ["compress", "open.keras", "--input_shape=8,8,1", "--input_range=-1,1"]
# Importing TensorFlow takes seconds, so each program calls the command line several times. This ends what a call wrote.
END = "-----\n"
# In a terminal, as pip installs it: with a bar, and quietly where there is a note.
IN_A_TERMINAL = f"""
import sys
from tfdatafree.cli import main
for arguments in (["compress", "small.keras", "-o", "shown.tflite"], {[*NOTED, "-o", "quiet.tflite", "--quiet"]}):
    code = main(arguments)
    assert code == 0, code
    for stream in (sys.stdout, sys.stderr):
        print({END!r}, end="", file=stream, flush=True)
"""
# Into pipes: a note; then stopped by Ctrl-C where the work is done and where the file is put in its place.
IN_PIPES = f"""
import importlib, os, signal, sys, time
import tfdatafree, keras
keras.models.load_model("simulated.keras")
tfdatafree.compress
from tfdatafree.cli import main
# a shell that runs this in the background leaves Ctrl-C switched off
signal.signal(signal.SIGINT, signal.default_int_handler)
def end():
    for stream in (sys.stdout, sys.stderr):
        print({END!r}, end="", file=stream, flush=True)
def interrupted(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
end()
code = main({[*NOTED, "-o", "out.tflite"]})
assert code == 0, code
end()
for module, name in (("tfdatafree.flow.steps", "fold"), ("os", "replace")):
    module = importlib.import_module(module)
    real = getattr(module, name)
    setattr(module, name, interrupted)
    code = main(["compress", "small.keras", "-o", "work/a.tflite", "--report", "work/a.json"])
    setattr(module, name, real)
    assert code == 130, code
    end()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the programs run, and what they find there."""
    folder = tmp_path_factory.mktemp("programs")
    keras.Sequential([keras.layers.Conv2D(2, 3)], name="open").save(folder / "open.keras")
    build("plain").save(folder / "small.keras")
    compressed("plain", Recipe(generate=QUICK)).save(folder / "simulated.keras")
    (folder / "tfdatafree").write_text(IN_A_TERMINAL)
    (folder / "in_pipes.py").write_text(IN_PIPES)
    (folder / "work").mkdir()
    return folder


@pytest.fixture(scope="module")
def programs(folder) -> Iterator[dict[str, Future]]:
    """(what each call wrote to stdout, what it wrote to stderr), by program. Both run at a time."""
    environment = {k: v for k, v in os.environ.items() if k not in ("TFDATAFREE_DEBUG", "KERAS_BACKEND")}

    def run(start: Callable[..., tuple[int, str, str]], program: str) -> list[tuple[str, str]]:
        code, out, err = start([sys.executable, program], folder, environment)
        assert code == 0, err
        return list(zip(*(text.replace("\r\n", "\n").split(END)[:-1] for text in (out, err)), strict=True))

    with ThreadPoolExecutor(2) as pool:
        yield {
            "in a terminal": pool.submit(run, in_a_terminal, "tfdatafree"),
            "in pipes": pool.submit(run, in_pipes, "in_pipes.py"),
        }


def in_pipes(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)
    return done.returncode, done.stdout, done.stderr


def in_a_terminal(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    """(exit code, stdout, what a terminal got as stderr)."""
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, cwd=folder, env=environment) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not piece:
                break
            shown += piece
        os.close(leader)
        out = process.stdout.read()
        return process.wait(timeout=300), out.decode(), shown.decode()


@linux_only
def test_on_a_terminal_there_is_one_bar_and_nothing_of_tensorflows(programs, folder):
    (out, shown), _ = programs["in a terminal"].result()
    assert out.endswith("wrote shown.tflite\n")
    shown = shown.removeprefix("importing TensorFlow ...\n")
    texts = {frame["text"].split(":")[0].strip() for frame in frames(shown)}
    assert {"load", "round weights, choose ranges", "export and verify"} <= texts
    assert any(": " in frame["text"].strip() for frame in frames(shown)), "layers are named"
    again = compress(folder / "small.keras", verbose=0)
    assert (folder / "shown.tflite").read_bytes() == again.tflite, "another process, the same bytes"


@linux_only
def test_quiet_is_silent_even_on_a_terminal_and_where_there_is_a_note(programs, folder):
    _, quiet = programs["in a terminal"].result()
    assert quiet == ("", "")
    assert (folder / "quiet.tflite").stat().st_size > 1000


def test_what_a_user_should_know_reaches_stderr_and_nothing_else(programs, folder):
    _, (out, err), *_ = programs["in pipes"].result()
    assert "wrote out.tflite" in out
    assert re.fullmatch(r"note: 'open' is not built.*random.*\n", without_progress(err)), err
    assert (folder / "out.tflite").stat().st_size > 1000


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_an_interrupt_is_one_line_and_leaves_nothing_behind(programs, folder):
    """Ctrl-C while working, and while the file is being written; a simulation opens where only the package is imported."""
    _, _, *interrupted = programs["in pipes"].result()
    assert [(out, without_progress(err)) for out, err in interrupted] == [("", "error: interrupted.\n")] * 2
    assert list((folder / "work").iterdir()) == []
