"""Tests of the command line: what it prints, writes and refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers as L
from progress_bar import without_progress

import tfdatafree
from tfdatafree.cli import _COMMANDS, main
from tfdatafree.demo import MODEL_PATH, load_demo
from tfdatafree.report.contents import inspect_file
from tfdatafree.sweeping.machines import ONE_THREAD
from tfdatafree.tflite.runtime import Runner

MODEL = str(MODEL_PATH)
# The module; as an attribute of the package the function has its name.
COMPRESS = sys.modules["tfdatafree.compress"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current directory, empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFDATAFREE_DEBUG", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Folder with digits.tflite, and the report and simulation that belong to it."""
    folder = tmp_path_factory.mktemp("made")
    names = {"-o": "digits.tflite", "--report": "digits.json", "--simulated": "digits.keras"}
    outputs = [part for flag, name in names.items() for part in (flag, str(folder / name))]
    (folder / "labels.txt").write_text("\n".join(f"digit {number}" for number in range(10)))
    asked = ["--input_range=0,1", f"--labels={folder / 'labels.txt'}", "--measure_latency", "--quiet"]
    assert main(["compress", MODEL, *asked, *outputs]) == 0
    return folder


@pytest.mark.slow
def test_labels_are_in_the_file_and_latencies_in_the_report(made, capsys):
    assert main(["inspect", str(made / "digits.tflite")]) == 0
    shown = capsys.readouterr().out
    assert "labels in labels.txt" in shown and "x = (pixel - 0) / 255" in shown and "recipe int8" in shown
    latencies = json.loads((made / "digits.json").read_text())["report"]["latencies"]
    assert latencies[0]["file"] == "this file" and latencies[0]["ratio"] == 1


def refusal(capsys, folder: Path, *arguments: str, code: int | None = None) -> str:
    """The one line on stderr with which `arguments` are refused; nothing else may have happened.

    Args:
        code: The exit code; None for that of a file that is no good or of a wrong option.
    """
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    assert main(arguments) in ((1, 2) if code is None else (code,))
    printed = capsys.readouterr()
    assert printed.out == ""
    line = without_progress(printed.err)
    assert re.fullmatch(r"error: .+\n", line), printed.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    return line


def save_model(path: Path, *layers, weights=None) -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
    if weights is not None:
        model.set_weights([np.full(w.shape, weights) for w in model.get_weights()])
    model.save(path)


# Help


@pytest.mark.slow
def test_help_and_mistakes_do_not_wait_for_tensorflow(folder):
    script = folder / "tfdatafree"  # as pip writes it
    script.write_text("import sys\nfrom tfdatafree.cli import main\nsys.exit(main())\n")
    for start, arguments, code in (
        (["-m", "tfdatafree"], ["compress", "--help"], 0),
        ([str(script)], ["--version"], 0),
        ([str(script)], ["compress", "missing.keras", "-o", "out.tflite"], 1),
    ):
        command = [sys.executable, "-X", "importtime", *start, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        imported = re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE)
        assert "tfdatafree.cli" in imported and not {"keras", "tensorflow"} & set(imported)


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in _COMMANDS)
    assert "tfdatafree demo" in printed


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_of_a_command_has_an_example_and_its_own_flags_only(name, capsys):
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"usage:   tfdatafree {name}" in printed and f"example: tfdatafree {name}" in printed
    assert ("--recipe" in printed) == (name in ("compress", "diagnose", "sweep"))
    assert ("--data" in printed) == (name in ("compare", "evaluate", "verify"))
    assert ("--output" in printed) == (name in ("compress", "demo", "sweep"))


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tfdatafree {tfdatafree.__version__}\n"


# Refusals


@pytest.mark.slow
def test_what_is_wrong_at_sight_is_refused_without_tensorflow(made, folder):
    """One process that cannot import TensorFlow or Keras refuses each with the right exit code."""
    (folder / "graph.onnx").write_bytes(b"anything")
    (folder / "net.pt").write_bytes(b"PK\3\4 anything")
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").write_bytes(b"anything")
    (folder / "notes.json").write_text("{}")
    file = str(made / "digits.tflite")
    wrong_files = [
        (command, name, *rest)
        for command, *rest in (("compress", "-o", "o.tflite"), ("diagnose",))
        for name in ("graph.onnx", "net.pt", "saved", "notes.json", file)
    ]
    wrong_files += [
        ("compare", str(folder / "net.pt"), file),
        ("verify", MODEL),
        ("verify", file, "--against=" + str(folder / "graph.onnx")),
        ("bench", MODEL),
        ("inspect", MODEL),
    ]
    wrong_usage = [
        ("compress", MODEL, "-o", "o.tflite", option)
        for option in (
            "--input_range=1,-1",
            "--input_range=a:3,1",
            "--pattern=2:3",
            "--sparsity=2",
            "--seed=" + "9" * 30,
        )
    ]
    wrong_usage += [
        (),
        ("compres",),
        ("compress", MODEL),
        ("compress", MODEL, "--no_such_flag"),
        ("compress", MODEL, "-o", "o.tflite", "--input_range", "0", "255"),
        ("compare", file, file, "--n=0"),
        ("verify", file, "--n=0"),
        ("verify", file, "--runtime=none"),
        ("completion", "tcsh"),
    ]
    calls = {(*arguments,): code for code, group in ((1, wrong_files), (2, wrong_usage)) for arguments in group}
    program = f"""
import importlib.abc, sys
class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        assert name not in ("tensorflow", "keras"), name
sys.meta_path.insert(0, Slow())
sys.argv = ["tfdatafree"]
from tfdatafree.cli import main
for arguments, code in {list(calls.items())!r}:
    got = main(arguments)
    assert got == code, (arguments, got)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^error: ", done.stderr, re.MULTILINE)) == len(calls)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--input_range", "0", "255"), "--input_range=0,255"),
        (("--input_range", "-1", "1"), "--input_range=-1,1"),
        (("--input_range", "0,", "255"), "--input_range=0,255"),
        (("--input_range=image:0", "255"), "--input_range=image:0,255"),
        (("--input_shape", "8", "8", "1"), "--input_shape=8,8,1"),
    ],
)
def test_numbers_apart_get_the_text_to_write(arguments, hint, folder, capsys):
    for order in ((MODEL, *arguments), (*arguments, MODEL)):
        assert refusal(capsys, folder, "compress", "-o", "out.tflite", *order, code=2).endswith(f": {hint}\n")
    assert "got 2: " in refusal(capsys, folder, "compress", MODEL, "255", "-o", "out.tflite", code=2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "no command; usage: tfdatafree compress"),
        (("compres",), "command is 'compres'; did you mean 'compress'"),
        (
            ("xyz",),
            "command is 'xyz'; choose one of compress, inspect, compare, evaluate, verify, bench, diagnose, "
            "sweep, demo, schema, completion",
        ),
        (("--recipe=int8", "compress"), "'--recipe=int8' comes before any command"),
        (("compress", "-o", "out.tflite"), "compress needs MODEL, got none"),
        (("compress", MODEL, "more", "-o", "out.tflite"), "compress needs MODEL, got 2.*more"),
        (("compress", MODEL, "-o", "out.tflite", "--recpe=int8"), "'recpe'. Did you mean: recipe"),
        (("compress", MODEL, "-o", "out.tflite", "--seed=x"), "seed=x"),
        (("compress", MODEL, "-o", "out.tflite", "--recipe=int9"), "recipe is 'int9'; did you mean 'int8'"),
        (("compress", MODEL, "-o", "out.tflite", "--prune=erk"), "prune is 'erk', but there is no sparsity"),
        (("compress", MODEL, "-o", "out.tflite", "--sparsity=0.5", "--prune=ekr"), "did you mean 'erk'"),
        (("compress", MODEL, "-o", "out.tflite", "--labels=no.txt"), "label file 'no.txt' cannot be read"),
        (("compress", MODEL, "-o", "out.tflite", "--size=1.5"), "size is '1.5'; give a part of the int8 file's bytes"),
        (
            ("compress", MODEL, "-o", "out.tflite", "--size=half"),
            "size is 'half'; give a part of the int8 file's bytes, e.g. 0.6, or",
        ),
        (
            ("compress", MODEL, "-o", "out.tflite", "--size=0.6", "--recipe=float16"),
            "policy searches bits for an integer",
        ),
        (("compress", MODEL, "-o", "out.tflite", "--sparsity=1.5"), "sparsity is 1.5; give the part of zeros"),
        (
            ("compress", MODEL, "-o", "out.tflite", "--sparsity=a"),
            "sparsity is 'a'; give one number, e.g. --sparsity=0.6",
        ),
        (
            ("compress", MODEL, "-o", "out.tflite", "--pattern=2:4", "--sparsity=0.3"),
            "pattern .2:4. gives 0.5; leave one out",
        ),
        (
            ("compress", MODEL, "-o", "out.tflite", "--pattern=2:4", "--sparsity=auto"),
            "pattern '2:4' decides it: 0.5; leave sparsity out",
        ),
        (
            ("compress", MODEL, "-o", "out.tflite", "--target=ethos-55"),
            "target is 'ethos-55'; did you mean 'ethos-u55'",
        ),
        (
            ("compress", MODEL, "-o", "out.tflite", "--target=edgetpu", "--recipe=int16x8"),
            "activation_bits is 16, but Google",
        ),
        (
            ("compress", MODEL, "-o", "out.tflite", "--target=ethos-u55", "--recipe=float16"),
            "does not take files with float16",
        ),
        (("diagnose", "missing.keras", "--target=ethos-u55-256"), "'missing.keras' does not exist"),
        (("diagnose", "missing.keras", "--target=ethos-u55-7"), "Arm Ethos-U55 comes as ethos-u55-32, ethos-u55-64"),
        (("verify", MODEL, "--runtime=litet"), "runtime is 'litet'; did you mean 'litert'"),
        (("verify", "whole.tflite", "--n=two"), "n is 'two'; give one number, e.g. --n=4"),
        (("inspect", "whole.tflite", "--target=edge"), "target is 'edge'; did you mean 'edgetpu'"),
        (("inspect", "whole.tflite", "--target=qualcomm-sm1"), "comes as qualcomm-.*qualcomm-sm8750"),
        (("compress", MODEL, "-o", "out.tflite", "--target=mediatek-x"), "comes as mediatek-"),
        (("diagnose", "missing.keras", "--target=google-tensor-g5"), "'missing.keras' does not exist"),
        (("compress", MODEL, "-o", "out.tflite", "--input_range=1,-1"), r"input_range is \(1, -1\).*low < high"),
        (("compress", MODEL, "-o", "out.tflite", "--input_range=1"), "input_range is .*two numbers"),
        (("compress", MODEL, "-o", "out.tflite", "--input_range=a,b"), "input_range is 'a,b'.*--input_range=-1,1"),
        (("compress", MODEL, "-o", "out.tflite", "--input_range=a:1"), "input_range of 'a' is .*two numbers"),
        (("compress", MODEL, "-o", "out.tflite", "--input_range=a:1,b"), "input_range is '1,b'.*--input_range=a:-1,1"),
        (("compress", MODEL, "-o", "out.tflite", "--input_range=a:0,1"), "in input_range is 'a'; choose one of"),
        (("compare", MODEL, MODEL, "--input_range=0,1", "--input_range=a:0,1"), "given 2 times; .*once for each input"),
        (("compress", MODEL, "-o", "out.tflite", "--input_shape=9,9,1"), r"input_shape is \(9, 9, 1\).*\(8, 8, 1\)"),
        (("compress", MODEL), "no output; add -o"),
        (("compress", MODEL, "-o", "out.lite"), "output is 'out.lite'.*ends in .tflite"),
        (("compress", MODEL, "-o", "out.tflite", "--report=out.txt"), "report is 'out.txt'.*ends in .html or .json"),
        (("compress", MODEL, "-o", "none/out.tflite"), "the folder 'none' does not exist"),
        (("demo", "-o", "none/out.tflite"), "the folder 'none' does not exist"),
        (("compress", MODEL, "-o", "out.tflite", "--overwrite", f"--simulated={MODEL}"), "the model itself"),
        (("compress", "missing.keras", "-o", "out.tflite"), "'missing.keras' does not exist"),
        (("compress", "empty.keras", "-o", "out.tflite"), "'empty.keras' is empty"),
        (("compress", "short.keras", "-o", "out.tflite"), "'short.keras' is truncated or damaged"),
        (("compress", "text.keras", "-o", "out.tflite"), "'text.keras' is not a Keras file"),
        (("compress", "nan.keras", "-o", "out.tflite"), "NaN"),
        (("compress", "plain.keras", "-o", "out.tflite"), "no layer with weights to compress"),
        (("compress", MODEL, "-o", "out.tflite", "--representative_data=text.keras"), "neither a folder of images nor"),
        (("compress", MODEL, "-o", "out.tflite", "--representative_data=."), "there are no images in '.'"),
        (
            ("compress", MODEL, "-o", "out.tflite", "--representative_data=wrong.npz"),
            r"\(3, 9, 9, 1\); give \(n, 8, 8, 1\)",
        ),
        (("inspect", "missing.tflite"), "'missing.tflite' does not exist"),
        (("inspect", "empty.tflite"), "'empty.tflite' is empty"),
        (("inspect", "text.keras"), "'text.keras' is not a TFLite file"),
        (("inspect", "short.tflite"), "'short.tflite' is truncated or damaged"),
        (("inspect", "."), "'.' is a directory"),
        (("compare", MODEL, "missing.tflite"), "'missing.tflite' does not exist"),
        (("compare", MODEL, "short.tflite"), "'short.tflite' is truncated or damaged"),
        (("compare", MODEL, MODEL, "--n=0"), "n is 0"),
        (("compress", MODEL, "-o", "out.tflite", "--pattern=2:3"), "pattern is '2:3'.*m = 2, 4, 8"),
        (("completion", "csh"), "shell is 'csh'; .*bash, zsh, fish"),
        (("compare", MODEL, MODEL, "--n=1,2"), "n is '1,2'; give one number, e.g. --n=32"),
        (
            ("compress", MODEL, "-o", "out.tflite", "--recover=many"),
            "recover is 'many'; give one number, e.g. --recover=256",
        ),
        (
            ("compare", MODEL, MODEL, "--data=text.keras"),
            "'text.keras' is neither a folder of images nor a file that ends in .npz",
        ),
        (("compare", MODEL, MODEL, "--data=wrong.npz"), r"shape \(3, 9, 9, 1\); give \(n, 8, 8, 1\)"),
        (("evaluate", MODEL), "there are no data; add --data=FOLDER or --data=FILE.npz"),
        (("evaluate", MODEL, "--data=wrong.npz", "--scale=a"), "scale is 'a'; give numbers separated by commas"),
        (("evaluate", MODEL, "--data=missing"), "'missing' does not exist"),
        (("sweep", MODEL), "there is no output; add -o FOLDER"),
        (("sweep", MODEL, "-o", "out", "--sparsity=0,x"), "sparsity is 'x'; give one number"),
        (("sweep", MODEL, "-o", "out", "--size=1,1.5"), "size is '1.5'; give a part"),
        (("sweep", MODEL, "-o", "out", "--recipes=int8,int4"), "recipe is 'int4'"),
        (
            ("sweep", MODEL, "-o", "out", "--max_bytes=few"),
            "max_bytes is 'few'; give a number of bytes, e.g. --max_bytes=250kB",
        ),
        (("sweep", MODEL, "-o", "out", "--scheduler=tcp://a:1", "--workers=1"), "a scheduler is given; leave one out"),
        (("sweep", "missing.keras", "-o", "out"), "'missing.keras' does not exist"),
        (("compare", MODEL, "plain.keras"), r"\(8, 8, 1\).*\(4, 4, 1\)"),
    ],
)
@pytest.mark.slow
def test_bad_input_is_one_line_and_nothing_written(arguments, message, folder, made, capsys):
    for name, content in {
        "empty.keras": b"",
        "empty.tflite": b"",
        "short.keras": MODEL_PATH.read_bytes()[:5000],
        "short.tflite": (made / "digits.tflite").read_bytes()[:5000],
        "text.keras": b"hello, world",
    }.items():
        (folder / name).write_bytes(content)
    if "nan.keras" in arguments:
        save_model(folder / "nan.keras", keras.layers.Conv2D(2, 3), weights=np.nan)
    if "plain.keras" in arguments:
        save_model(folder / "plain.keras", keras.layers.MaxPooling2D())
    np.savez(folder / "wrong.npz", x=np.zeros((3, 9, 9, 1)))
    assert re.search(message, refusal(capsys, folder, *arguments))


def test_an_output_that_exists_is_refused_before_the_work_and_kept(folder, capsys, monkeypatch):
    monkeypatch.setattr(COMPRESS, "compress", lambda *_, **__: pytest.fail("the work has begun"))
    (folder / "out.tflite").write_text("mine")
    (folder / "out.json").write_text("mine")
    assert "'out.tflite' exists; add --overwrite" in refusal(capsys, folder, "compress", MODEL, "-o", "out.tflite")
    arguments = ("compress", MODEL, "-o", "new.tflite", "--report=out.json")
    assert "'out.json' exists; add --overwrite" in refusal(capsys, folder, *arguments)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that not even root can write to")
def test_an_output_that_cannot_be_written_is_refused_before_the_work(folder, capsys, monkeypatch):
    monkeypatch.setattr(COMPRESS, "compress", lambda *_, **__: pytest.fail("the work has begun"))
    line = refusal(capsys, folder, "compress", MODEL, "-o", "/proc/out.tflite")
    assert "output is '/proc/out.tflite', but nothing can be written there" in line


def test_another_keras_backend_is_refused(folder, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    line = refusal(capsys, folder, "compress", MODEL, "-o", "out.tflite")
    assert "KERAS_BACKEND is 'jax'; unset it" in line


@pytest.mark.slow
def test_an_interrupt_is_one_line_and_leaves_nothing_half_written(folder, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    assert main(["compress", MODEL, "-o", "out.tflite"]) == 130
    assert without_progress(capsys.readouterr().err) == "error: interrupted.\n"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, ValueError, RecursionError])
def test_a_bug_is_one_line_and_shows_its_traceback_on_request(error, folder, capsys, monkeypatch):
    def broken(*_, **__):
        raise error("a bug\x1b[2J")

    monkeypatch.setattr(COMPRESS, "compress", broken)
    line = refusal(capsys, folder, "compress", MODEL, "-o", "out.tflite")
    assert f"{error.__name__}: a bug\\x1b[2J. Please report it, with what --verbose shows." in line
    with pytest.raises(error, match="a bug"):
        main(["compress", MODEL, "-o", "out.tflite", "--verbose"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--report=a.json", "--save_recipe=./a.json"], "'a.json' is the name of two outputs"),
        (["--recover=0"], "recover is 0; give a number of generated images of at least 2"),
        (["--seed=99999999999999999999999999"], "seed is 99999999999999999999999999; give a whole number"),
        (["--recover=" + "9" * 5000], "recover is '999"),
        (["--report=" + "o" * 300 + ".json"], "File name too long"),
        (["--report=a\0.json"], "holds the character NUL"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_written_or_done_is_refused_before_the_work(flags, said, folder, capsys):
    assert said in refusal(capsys, folder, "compress", MODEL, "-o", "out.tflite", *flags)


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_a_refusal_shows_its_traceback_on_request(way, monkeypatch):
    if way == "environment":
        monkeypatch.setenv("TFDATAFREE_DEBUG", "1")
    with pytest.raises(tfdatafree.LoadError, match="does not exist"):
        main(["compress", "missing.keras", "-o", "out.tflite", *(["--verbose"] if way == "flag" else [])])


def test_native_noise_is_hidden_and_our_own_lines_are_not(capfd, monkeypatch):
    def noisy(*_, **__):
        os.write(2, b"I0000 native noise\n")
        print("a line of Python", file=sys.stderr)
        raise tfdatafree.UnsupportedModelError("a refusal")

    monkeypatch.setattr(COMPRESS, "compress", noisy)
    assert main(["compress", MODEL, "-o", "out.tflite"]) == 1
    assert without_progress(capfd.readouterr().err) == "a line of Python\nerror: a refusal\n"
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"


def test_the_demo_says_how_to_get_its_images_before_the_work(folder, capsys, monkeypatch):
    monkeypatch.setattr(COMPRESS, "compress", lambda *_, **__: pytest.fail("the work has begun"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed: pip install scikit-learn" in refusal(capsys, folder, "demo", code=1)


# Commands


@pytest.mark.slow
def test_demo_is_quiet_and_gives_the_same_bytes(folder, capsys):
    (folder / "demo.tflite").write_text("an older one")
    assert main(["demo"]) == 0
    printed = capsys.readouterr()
    assert without_progress(printed.err) == ""
    float_accuracy, accuracy = (float(text) for text in re.findall(r"accuracy +([\d.]+) %", printed.out))
    assert float_accuracy > 95 and accuracy > float_accuracy - 3
    assert main(["compress", MODEL, "-o", "again.tflite", "--quiet"]) == 0
    assert (folder / "demo.tflite").read_bytes() == (folder / "again.tflite").read_bytes()


@pytest.mark.slow
def test_compress_writes_what_was_asked_for_and_says_so(made, capsys):
    written = {path.name for path in made.iterdir()} - {"labels.txt"}
    assert written == {"digits.json", "digits.keras", "digits.tflite"}
    record = json.loads((made / "digits.json").read_text())
    assert record["report"]["bytes"] == (made / "digits.tflite").stat().st_size
    assert main(["compress", MODEL, "-o", "out.tflite", "--input_range=0,1"]) == 0
    printed = capsys.readouterr()
    assert "integer only" in printed.out and "[0, 1], given" in printed.out
    assert printed.out.endswith("wrote out.tflite\n")
    assert without_progress(printed.err) == ""
    stages = re.findall(r"^ *[\d.]+ s  (.+)$", printed.err, re.MULTILINE)
    assert stages[0] == "load" and stages[-1] == "export and verify", "what is done is told as it begins"


@pytest.mark.slow
def test_options_reach_the_compression(folder, capsys):
    (folder / "out.tflite").write_text("an older one")
    arguments = ["--recipe=int8_per_tensor", "--input_range", "-2,3", "--overwrite"]
    assert main(["compress", MODEL, "--output=out.tflite", *arguments]) == 0
    assert "recipe int8_per_tensor" in capsys.readouterr().out
    summary = inspect_file("out.tflite")
    step = summary.inputs[0].scales[0]
    np.testing.assert_allclose(summary.inputs[0].value_range, (-2, 3), atol=step / 2)
    kernels = [t for t in summary.tensors if t.writer == "constant" and t.dtype == "int8"]
    assert kernels and all(len(tensor.scales) == 1 for tensor in kernels)


@pytest.mark.slow
def test_inspect_for_a_chip_says_how_to_get_its_compiler(made, capsys, monkeypatch):
    monkeypatch.setattr("tfdatafree.targets.aot.is_installed", lambda compiler: False)
    assert main(["inspect", str(made / "digits.tflite"), "--target=qualcomm-sm8750"]) == 0
    printed = capsys.readouterr().out
    assert "SM8750 computes" in printed and "says its profile" in printed
    assert printed.splitlines()[-1].endswith("pip install ai-edge-litert-sdk-qualcomm.")


@pytest.mark.slow
def test_inspect_tells_what_the_interpreter_tells(made, capsys):
    path = made / "digits.tflite"
    summary = inspect_file(path)
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    for found, details in (
        (summary.inputs, interpreter.get_input_details()),
        (summary.outputs, interpreter.get_output_details()),
    ):
        assert [tensor.name for tensor in found] == [detail["name"] for detail in details]
        for tensor, detail in zip(found, details, strict=True):
            assert (tensor.dtype, tensor.shape) == (np.dtype(detail["dtype"]).name, tuple(detail["shape"]))
            assert (tensor.scales[0], tensor.zero_points[0]) == detail["quantization"]
    by_name = {detail["name"]: detail for detail in interpreter.get_tensor_details()}
    constants = [tensor for tensor in summary.tensors if tensor.bytes]
    assert constants
    for tensor in constants:
        detail = by_name[tensor.name]
        assert tensor.bytes == interpreter.get_tensor(detail["index"]).nbytes
        np.testing.assert_array_equal(tensor.scales, detail["quantization_parameters"]["scales"])
    assert summary.bytes == path.stat().st_size > sum(tensor.bytes for tensor in constants)
    assert summary.integer_share == 1
    assert main(["inspect", str(path)]) == 0
    short = capsys.readouterr().out
    assert all(name in short for name in summary.operators) and "(100 %)" in short
    assert f"{summary.macs:,}" in short and f"{summary.arena:,}" in short
    assert not any(f" {tensor.name}\n" in short for tensor in constants), "tensors are listed on demand"
    assert main(["inspect", str(path), "--tensors"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(short.rstrip())
    assert all(f" {tensor.name}\n" in printed for tensor in summary.tensors)


@pytest.mark.slow
def test_inspect_counts_float_operators(folder, capsys):
    assert main(["compress", MODEL, "-o", "half.tflite", "--recipe=float16", "--quiet"]) == 0
    summary = inspect_file("half.tflite")
    assert summary.integer_operators == 0 and sum(summary.operators.values()) > 5
    assert main(["inspect", "half.tflite"]) == 0
    printed = capsys.readouterr().out
    assert "(0 %)" in printed and "float16" in printed


def test_verify_finds_the_same_integers_and_says_what_is_missing(made, capsys, monkeypatch):
    monkeypatch.delenv("TFDATAFREE_TOSA_PYTHON", raising=False)
    path = str(made / "digits.tflite")
    assert main(["verify", path, f"--against={MODEL}", "--runtime=simulation,tosa", "--n=2", "--seed=3"]) == 0
    printed = capsys.readouterr().out
    own = next(line for line in printed.splitlines() if line.startswith("simulation"))
    assert " 0.00% " in own and " dB" in own
    assert "tosa" in printed and "TFDATAFREE_TOSA_PYTHON is not set" in printed
    np.save("x.npy", np.zeros((2, 8, 8, 1), np.float32))
    assert main(["verify", path, "--data=x.npy", "--runtime=litert"]) == 0
    assert "on 2 inputs: 'x.npy'" in capsys.readouterr().out


def test_bench_times_several_files(made, capsys):
    path = str(made / "digits.tflite")
    assert main(["bench", path, path, "--rounds=2", "--threads=2", "--profile"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(path) == 4 and "2 threads" in printed and "CONV_2D" in printed
    assert main(["bench"]) == 2 and "bench needs FILE ..., got none" in capsys.readouterr().err
    assert main(["bench", path, "--phone", "--rounds=0"]) == 2 and "rounds=0" in capsys.readouterr().err


def compared(capsys, *arguments: str) -> dict[str, str]:
    """Figures that `compare` prints, by the first words of their lines."""
    capsys.readouterr()
    assert main(["compare", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return dict(re.findall(r"^(\w[\w ]+?)  +(.+)$", printed.out, re.MULTILINE))


@pytest.mark.slow
def test_sparsity_prunes_by_the_method_asked_for(folder, capsys):
    assert (
        main(["compress", MODEL, "-o", "sparse.tflite", "--sparsity=0.5", "--prune=uniform", "--input_range=0,1"]) == 0
    )
    assert "50.0 % of the weights, by uniform" in capsys.readouterr().out
    assert (folder / "sparse.tflite").exists()


@pytest.mark.slow
def test_split_outputs_gives_boxes_and_scores_outputs_of_their_own(folder, capsys):
    x = keras.Input((8, 8, 3))
    boxes = keras.layers.Rescaling(500.0)(keras.layers.Conv2D(4, 1, activation="sigmoid", name="boxes")(x))
    scores = keras.layers.Conv2D(2, 1, activation="sigmoid", name="scores")(x)
    keras.Model(x, keras.layers.Concatenate(name="both")([boxes, scores])).save("model.keras")
    command = ["compress", "model.keras", "-o", "split.tflite", "--input_range=-1,1", "--save_recipe=recipe.json"]
    assert main([*command, "--split_outputs"]) == 0
    printed = capsys.readouterr().out
    assert 'both: np.concatenate([y["boxes"], y["scores"]], axis=-1)' in printed and "WARNING" not in printed
    assert len(inspect_file("split.tflite").outputs) == 2
    assert json.loads(Path("recipe.json").read_text())["quantize"]["split_outputs"] is True
    lines = compared(capsys, "model.keras", "split.tflite")
    assert "SQNR" in lines and "agreement" not in lines


@pytest.mark.slow
def test_what_a_network_bears_is_found_and_what_it_does_not_bear_is_the_first_line(folder, capsys):
    command = ["compress", MODEL, "--recipe=float16", "--prune=uniform", "--input_range=0,1"]
    assert main([*command, "-o", "broken.tflite", "--sparsity=0.98", "--strict"]) == 3
    first, *others = capsys.readouterr().out.splitlines()
    bears = int(re.fullmatch(r"WARNING: pruned by 98 %, '.+' decides .+ would bear about (\d+) % .+", first)[1])
    assert not any("WARNING" in line for line in others)
    assert main([*command, "-o", "kept.tflite", "--sparsity=auto"]) == 0
    kept = capsys.readouterr().out
    assert "WARNING" not in kept and f"  zeros       {bears}.0 % of the weights" in kept


@pytest.mark.slow
def test_sweep_says_what_it_does_and_which_file_to_take(folder, capsys, monkeypatch):
    for name in ONE_THREAD:
        monkeypatch.setenv(name, "1")  # as the command does, for other tests to forget
    command = [
        "sweep",
        MODEL,
        "-o",
        "out",
        "--workers=0",
        "--pages=false",
        "--input_range=0,1",
        "--size=1,0.9",
        "--latency",
    ]
    assert main([*command, "--max_bytes=1MB"]) == 0
    printed = capsys.readouterr()
    assert "2 points: 0 are there, 2 to compute" in printed.err and "2 of 2: digits, int8, size 0.9: " in printed.err
    assert "of 2 of 2 points with at most 1,000,000 bytes" in printed.out and "wrote out/index.html" in printed.out
    rows = json.loads(Path("out/sweep.json").read_text())["points"]
    assert all(Path("out", row["file"]).stat().st_size == row["bytes"] and row["cpu_ms"] > 0 for row in rows)
    assert main([*command, "--max_ms=1000", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


@pytest.mark.slow
def test_size_searches_bits_and_says_which_size_can_be_had(folder, capsys):
    command = ["compress", MODEL, "-o", "small.tflite", "--input_range=0,1"]
    assert main([*command, "--size=0.1"]) == 2
    least = re.search(r"choose at least (0\.\d+)\.", capsys.readouterr().err).group(1)
    assert not (folder / "small.tflite").exists()
    assert main([*command, f"--size={least}"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  bits"))
    assert "layers in 4;" in line and f"({100 * float(least):g} % requested)" in line
    summary = inspect_file("small.tflite")
    assert any(tensor.dtype == "int4" for tensor in summary.tensors)
    assert summary.bytes < float(least) * int(re.search(r"the ([\d,]+) bytes in int8", line).group(1).replace(",", ""))


@pytest.mark.slow
def test_each_of_several_inputs_gets_its_range(folder, capsys):
    """As compress --input_range=NAME:LOW,HIGH says; compare draws inputs in the ranges of the file."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    keras.Model([left, right], L.Dense(2)(L.Concatenate()([left, right]))).save("two.keras")
    flags = ["--input_range=left:-1,1", "--input_range", "right:-50,200"]
    assert main(["compress", "two.keras", "-o", "two.tflite", *flags]) == 0
    assert "  input range left: [-1, 1], given\n  input range right: [-50, 200], given\n" in capsys.readouterr().out
    ends = [value for tensor in inspect_file("two.tflite").inputs for value in tensor.value_range]
    np.testing.assert_allclose(ends, (-1, 1, -50, 200), atol=1)
    inputs = compared(capsys, "two.keras", "two.tflite", "--input_range=left:0,1")["inputs"]
    assert "left: [0, 1] (given), right: [-5" in inputs


@pytest.mark.slow
def test_a_model_is_like_itself(made, capsys):
    for path in (MODEL, str(made / "digits.tflite")):
        figures = compared(capsys, path, path, "--n=3", "--input_range=0,1")
        assert figures["same argmax"].startswith("100.00 %")
        assert figures["verdict"].startswith(
            "as good as the float model; agreement with float: about 100 % on real inputs"
        )
        assert figures["output discrepancy"].startswith("0.00000")
        assert figures["of responses"].startswith("0.00000")
        assert figures["SQNR"] == "no difference at all"
        assert figures["inputs"].startswith("3 procedural images in [0, 1] (given)")


@pytest.mark.slow
def test_the_simulation_is_nearer_to_the_file_than_the_float_model_is(made, capsys):
    file = str(made / "digits.tflite")
    far, near = (compared(capsys, model, file)["SQNR"] for model in (MODEL, str(made / "digits.keras")))
    assert near == "no difference at all" or float(near.split()[0]) > float(far.split()[0]) + 3


@pytest.mark.slow
def test_the_range_comes_from_the_file_else_from_the_model(made, capsys):
    figures = compared(capsys, MODEL, str(made / "digits.tflite"), "--n=1")
    assert "[0, 1] (what the integers of 'digits.tflite' reach)" in figures["inputs"]
    assert "estimated from the statistics" in compared(capsys, MODEL, MODEL, "--n=1")["inputs"]


@pytest.mark.slow
def test_given_inputs_are_used(folder, made, capsys):
    model, images, _ = load_demo()
    np.savez("digits.npz", x=images[:20])
    figures = compared(capsys, MODEL, str(made / "digits.tflite"), "--data=digits.npz")
    assert figures["inputs"] == "20 inputs of 'digits.npz'"
    runner = Runner((made / "digits.tflite").read_bytes())
    interpreted = np.concatenate([runner.predict([image[None]])[0] for image in images[:20]])
    same = (model.predict(images[:20], verbose=0).argmax(-1) == interpreted.argmax(-1)).mean()
    assert figures["same argmax"].startswith(f"{100 * same:.2f} %")
    assert f"{100 * same:.1f} % on 20 given inputs" in figures["verdict"]
    assert compared(capsys, MODEL, MODEL, "--data=digits.npz", "--n=7")["inputs"].startswith("7 ")


@pytest.mark.slow
def test_models_with_several_inputs_and_outputs_are_compared_output_by_output(folder, capsys):
    a, b = (keras.Input((6, 6, 2), name=name) for name in "ab")
    conv = keras.layers.Conv2D(3, 3, name="conv")
    pooled = [keras.layers.GlobalAveragePooling2D(name=f"pool_{x.name}")(conv(x)) for x in (a, b)]
    outputs = keras.layers.Dense(4, name="four")(pooled[0]), keras.layers.Dense(1, name="one")(pooled[1])
    keras.Model([a, b], outputs).save("two.keras")
    np.savez("two.npz", a=np.ones((2, 6, 6, 2)), b=np.zeros((2, 6, 6, 2)))
    assert main(["compare", "two.keras", "two.keras", "--data=two.npz"]) == 0
    printed = capsys.readouterr().out
    assert "output 'four'" in printed and "output 'one'" in printed
    assert printed.count("agreement") == 1, "the argmax of one value says nothing"
    assert printed.count("output discrepancy") == printed.count("of responses") == 2
    np.savez("half.npz", a=np.ones((2, 6, 6, 2)))
    assert "lacks b" in refusal(capsys, folder, "compare", "two.keras", "two.keras", "--data=half.npz")
