import stat

import pytest
from tiny_models import compressed

import tfdatafree
from tfdatafree.runtimes.phone import VARIABLE, PhoneError, phone_latency
from tfdatafree.tflite.flatbuffer import File


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(compressed("plain").tflite)
    return path


def stand_in(folder, monkeypatch, shell: str, state: str = "echo device") -> None:
    """An adb on the path whose `shell` commands print what `shell` does; it notes its calls in a file."""
    adb = folder / "adb"
    adb.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\ncase "$1" in\nget-state) {state};;\nshell) {shell};;\nesac\n'
    )
    adb.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.slow
def test_files_are_timed_side_by_side_and_operator_by_operator(file):
    found = tfdatafree.bench([file, file], rounds=3, profile=True)
    first, second = found.latencies
    assert first.ratio == first.low == first.high == 1 and second.low <= second.ratio <= second.high
    assert sum(kind.count for kind in first.operators) == len(File.parse(file.read_bytes()).operators)
    seconds = [kind.seconds for kind in first.operators]
    assert seconds == sorted(seconds, reverse=True)
    assert str(found).count(str(file)) == 4


@pytest.mark.slow
def test_the_phone_runs_googles_program_and_keeps_no_file(file, tmp_path, monkeypatch):
    stand_in(
        tmp_path, monkeypatch, "echo 'Inference timings in us: Init: 5, First inference: 9, Inference (avg): 1234.5'"
    )
    monkeypatch.setenv(VARIABLE, str(file))
    assert tfdatafree.bench([file], phone=True, rounds=7, threads=2).latencies[0].seconds == pytest.approx(1.2345e-3)
    calls = (tmp_path / "calls").read_text()
    assert "--num_threads=2 --num_runs=7" in calls and f"push {file} /data/local/tmp/benchmark_model" in calls
    assert calls.splitlines()[-1] == "shell rm -f /data/local/tmp/tfdatafree.tflite"


@pytest.mark.parametrize(
    "shell, state, message",
    [
        ("echo ok", "echo 'error: no devices found' >&2; exit 1", "no phone is connected: error: no devices found"),
        ("echo 'not found' >&2; exit 127", "echo device", "benchmark_model does not run; .*: not found"),
        ("echo 'Failed to load'", "echo device", r"no 'Inference \(avg\)'; its last line: Failed to load"),
    ],
)
def test_what_the_phone_refuses_is_one_line(tmp_path, monkeypatch, shell, state, message):
    stand_in(tmp_path, monkeypatch, shell, state)
    with pytest.raises(PhoneError, match=message):
        phone_latency(b"TFL3")


def test_bad_input_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tfdatafree.MissingPackageError, match="adb is not installed"):
        phone_latency(b"")
    with pytest.raises(ValueError, match="files is empty"):
        tfdatafree.bench([])
    with pytest.raises(ValueError, match="rounds is 0"):
        tfdatafree.bench(["x.tflite"], rounds=0)
    (tmp_path / "damaged.tflite").write_bytes(b"\x20\0\0\0TFL3 and no more")
    with pytest.raises(tfdatafree.LoadError, match=r"damaged.tflite.*damaged"):
        tfdatafree.bench([tmp_path / "damaged.tflite"])
