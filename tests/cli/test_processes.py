"""The command line as a program: what reaches a pipe or a terminal, Ctrl-C, and what importing the package alone does."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import keras
import pytest
from progress_bar import frames
from tiny_models import QUICK, build, compressed

from tfdatafree import Recipe, compress

pytestmark = pytest.mark.slow
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo terminal")

# An open model is read with a note.
NOTED = ("compress", "open.keras", "--input_shape=8,8,1", "--input_range=-1,1")
# The command line, stopped by Ctrl-C where the work is done and where the file is put in its place.
INTERRUPTED = """
import importlib, os, signal, sys, time
import tfdatafree, keras
keras.models.load_model("simulated.keras")
tfdatafree.compress
from tfdatafree.cli import main
# a shell that runs this in the background leaves Ctrl-C switched off
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupted(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
for module, name in (("tfdatafree.flow.steps", "fold"), ("os", "replace")):
    module = importlib.import_module(module)
    real = getattr(module, name)
    setattr(module, name, interrupted)
    code = main(["compress", sys.argv[1], "-o", "work/a.tflite", "--report", "work/a.json"])
    setattr(module, name, real)
    assert code == 130, code
sys.exit(code)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the programs run, and what they find there."""
    folder = tmp_path_factory.mktemp("programs")
    keras.Sequential([keras.layers.Conv2D(2, 3)], name="open").save(folder / "open.keras")
    build("plain").save(folder / "small.keras")
    compressed("plain", Recipe(generate=QUICK)).save(folder / "simulated.keras")
    (folder / "interrupted.py").write_text(INTERRUPTED)
    (folder / "work").mkdir()
    return folder


@pytest.fixture(scope="module")
def programs(folder) -> Iterator[dict[str, Future]]:
    """All of them, two at a time: each spends seconds on importing TensorFlow."""
    environment = {k: v for k, v in os.environ.items() if k not in ("TFDATAFREE_DEBUG", "KERAS_BACKEND")}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, *arguments]
        options = {"cwd": folder, "env": environment | more, "timeout": 300}
        return subprocess.run(command, capture_output=True, text=True, **options)

    started = {
        "terminal": (on_a_terminal, folder, environment, "compress", "small.keras", "-o", "shown.tflite"),
        "quiet": (on_a_terminal, folder, environment, *NOTED, "-o", "quiet.tflite", "--quiet"),
        "interrupted": (run, "interrupted.py", "small.keras"),
        "noted": (run, "-m", "tfdatafree", *NOTED, "-o", "out.tflite"),
    }
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(*call) for name, call in started.items()}


def on_a_terminal(folder: Path, environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, what a terminal got as stderr) of the command line."""
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, "-m", "tfdatafree", *arguments]
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
    code, out, shown = programs["terminal"].result()
    assert code == 0 and out.endswith("wrote shown.tflite\n")
    texts = {frame["text"].split(":")[0].strip() for frame in frames(shown)}
    assert {"load", "round weights, choose ranges", "export and verify"} <= texts
    assert any(": " in frame["text"].strip() for frame in frames(shown)), "layers are named"
    again = compress(folder / "small.keras", verbose=0)
    assert (folder / "shown.tflite").read_bytes() == again.tflite, "another process, the same bytes"


@linux_only
def test_quiet_is_silent_even_on_a_terminal_and_where_there_is_a_note(programs, folder):
    assert programs["quiet"].result() == (0, "", "")
    assert (folder / "quiet.tflite").stat().st_size > 1000


def test_what_a_user_should_know_reaches_stderr_and_nothing_else(programs, folder):
    done = programs["noted"].result()
    assert done.returncode == 0 and "wrote out.tflite" in done.stdout
    assert re.fullmatch(r"note: 'open' is not built.*random.*\n", done.stderr), done.stderr
    assert (folder / "out.tflite").stat().st_size > 1000


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_an_interrupt_is_one_line_and_leaves_nothing_behind(programs, folder):
    """Ctrl-C while working, and while the file is being written; a simulation opens where only the package is imported."""
    done = programs["interrupted"].result()
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr.count("error: interrupted.\n") == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "error: interrupted."
    assert list((folder / "work").iterdir()) == []
