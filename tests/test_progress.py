"""The progress bar: what it shows, that only terminals get it, and that an interrupted command leaves no files."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from absl import logging
from tiny_models import build

from tfdatafree import Prune, Quantize, Recipe, Recover, compress
from tfdatafree.activity import report_layer
from tfdatafree.cli import main
from tfdatafree.demo import MODEL_PATH
from tfdatafree.progress import _WIDTH, Progress

COMPRESS = sys.modules["tfdatafree.compress"]
FRAME = re.compile(rf"(?P<text>.{{{_WIDTH}}}) (?P<bar>\S*) +(?P<percent>\d+) % [\d:]+ passed, (\?|[\d:]+) left\s*")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo terminal")


@pytest.fixture
def shown(capsys, monkeypatch) -> Callable[[], str]:
    """Returns what was written to stderr so far. Every report is shown, even if they come fast."""
    monkeypatch.setattr("tfdatafree.progress._SHOWN_EVERY", 0)
    seen = []

    def read() -> str:
        seen.append(capsys.readouterr().err)
        return "".join(seen)

    return read


def frames(text: str) -> list[re.Match]:
    """The bar each time it was drawn."""
    found = [FRAME.fullmatch(part) for part in re.split(r"[\r\n]|\x1b\[A", text) if part.strip()]
    assert all(found), text
    return found


def percents(text: str) -> list[int]:
    return [int(frame["percent"]) for frame in frames(text)]


def test_it_names_stage_and_layer_and_moves_by_what_stages_take(shown):
    progress = Progress({"load": 10, "round": 70, "write": 20})
    with progress.stage("load"):
        report_layer("first")
    with progress.stage("round"):
        for at, layer in enumerate(("a", "b")):
            report_layer(layer, at / 2)
    with progress.stage("write"):
        pass
    progress.close()
    texts = [frame["text"].strip() for frame in frames(shown())]
    assert {"load: first", "round: a", "round: b", "write"} <= set(texts)
    at = dict(zip(texts, percents(shown()), strict=True))
    assert at["load"] == 10 and at["round: b"] == 45 and at["write"] == 100
    assert percents(shown()) == sorted(percents(shown()))


def test_a_stage_that_cannot_tell_its_part_moves_on_but_never_to_its_end(shown, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("tfdatafree.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = Progress({"first": 1, "second": 1})
    with progress.stage("first"):
        pass
    with progress.stage("second"):
        for at in range(200):
            report_layer(f"layer {at}")
        assert 51 < percents(shown())[-1] < 100 and len(set(percents(shown()))) > 5
    progress.close()
    assert percents(shown()) == sorted(percents(shown()))


def test_a_layer_is_reported_to_the_stage_at_work_only(shown):
    report_layer("nobody looks")
    progress = Progress({"only": 1})
    with pytest.raises(RuntimeError), progress.stage("only"):
        raise RuntimeError
    report_layer("nobody looks")
    silent = Progress({"only": 1}, verbose=0)
    with silent.stage("only"):
        report_layer("nobody looks")
    progress.close()
    assert "nobody" not in shown()


def test_a_silent_bar_tells_its_steps_to_the_stage_around_it(shown):
    progress = Progress({"before": 50, "stage": 50})
    with progress.stage("before"):
        pass
    with progress.stage("stage"):
        inner = Progress(4, verbose=0)
        for at in range(3):
            inner.step(f"step {at}")
        inner.close()
        assert frames(shown())[-1]["text"].strip() == "stage: step 2" and percents(shown())[-1] in (87, 88)
    progress.close()
    Progress(4, verbose=0).step("nobody looks")
    assert "nobody" not in shown() and percents(shown())[-1] == 100


def test_long_names_do_not_push_the_bar_aside(shown):
    progress = Progress({"stage": 1})
    with progress.stage("stage"):
        report_layer("x" * 200)
    progress.close()
    assert len({frame.string.index("%") for frame in frames(shown())}) == 1 and "…" in shown()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(quantize=None),
        Recipe(prune=Prune(sparsity=0.5, method="uniform")),
        Recipe(prune=Prune(sparsity=0.2, method="channel")),
        Recipe(quantize=None, prune=Prune(sparsity=0.5, method="uniform")),
        Recipe(quantize=None, prune=Prune(sparsity=0.2, method="channel")),
        Recipe(quantize=Quantize(activation_bits=4)),
        Recipe(recover=Recover(images=4)),
    ],
    ids=str,
)
def test_the_stages_that_are_announced_are_those_that_come(recipe, monkeypatch):
    came, stage = [], Progress.stage
    monkeypatch.setattr(Progress, "stage", lambda self, name: came.append(name) or stage(self, name))
    compress(build("plain"), recipe, input_range=(-1, 1), verbose=0)
    assert came == list(COMPRESS._expected_seconds(recipe))


def on_a_terminal(*arguments: str, folder: Path) -> tuple[int, str, str]:
    """(exit code, stdout, what a terminal got as stderr) of the command line."""
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, "-m", "tfdatafree", *arguments]
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=follower, cwd=folder)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # Linux reports in this way that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    code = process.wait(timeout=300)
    return code, (folder / "out").read_text(), shown.decode()


@linux_only
def test_on_a_terminal_there_is_one_bar_and_nothing_of_tensorflows(tmp_path):
    code, out, shown = on_a_terminal("compress", str(MODEL_PATH), "-o", "a.tflite", folder=tmp_path)
    assert code == 0 and out.endswith("wrote a.tflite\n")
    texts = {frame["text"].split(":")[0].strip() for frame in frames(shown)}
    assert {"load", "round weights, choose ranges", "export and verify"} <= texts
    assert any(": " in frame["text"].strip() for frame in frames(shown)), "layers are named"


def test_stages_and_their_times_are_logged_for_those_who_ask(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert main(["compress", str(MODEL_PATH), "-o", "a.tflite"]) == 0
    assert not [record for record in caplog.records if record.filename == "progress.py"]
    before = logging.get_verbosity()
    assert main(["compress", str(MODEL_PATH), "-o", "b.tflite", "--verbose"]) == 0
    logged = [record.getMessage() for record in caplog.records if record.filename == "progress.py"]
    assert [line.split(":")[0] for line in logged] == list(COMPRESS._expected_seconds(Recipe()))
    assert logging.get_verbosity() == before


@linux_only
def test_quiet_is_silent_even_on_a_terminal(tmp_path):
    assert on_a_terminal("compress", str(MODEL_PATH), "-o", "a.tflite", "--quiet", folder=tmp_path) == (0, "", "")
    assert (tmp_path / "a.tflite").stat().st_size > 1000


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("where", ["os.replace", "tfdatafree.flow.steps.fold"])
def test_an_interrupt_in_a_process_of_its_own_is_one_line(where, tmp_path):
    """Ctrl-C while working, and while the file is being written."""
    module, name = where.rsplit(".", 1)
    script = tmp_path / "run.py"
    script.write_text(
        "import importlib, os, signal, sys, time\n"
        "import tfdatafree\n"
        "from tfdatafree.cli import main\n"
        # a shell that runs this in the background ignores Ctrl-C
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"module = importlib.import_module({module!r})\n"
        "def interrupted(*_, **__):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        f"setattr(module, {name!r}, interrupted)\n"
        f"sys.exit(main(['compress', {str(MODEL_PATH)!r}, '-o', 'work/a.tflite', '--report', 'work/a.json']))\n"
    )
    (tmp_path / "work").mkdir()
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == "error: interrupted." and "Traceback" not in done.stderr
    assert list((tmp_path / "work").iterdir()) == []
