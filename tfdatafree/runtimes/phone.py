"""How long a file takes on a phone: Google's benchmark program there, over adb.

The program is `benchmark_model` of LiteRT, built for the phone. It lies on the phone already, or on this machine at the path
that TFDATAFREE_BENCHMARK_MODEL names, from where it is copied.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tfdatafree.errors import MissingPackageError, TfdatafreeError

VARIABLE = "TFDATAFREE_BENCHMARK_MODEL"
_FOLDER = "/data/local/tmp"
_PROGRAM = f"{_FOLDER}/benchmark_model"
_LIMIT = 300


class PhoneError(TfdatafreeError):
    """The phone or the program on it does not answer as expected; says what did."""


def phone_latency(content: bytes, *, runs: int = 50, threads: int = 1) -> float:
    """Mean seconds of one inference on the phone that is connected.

    Raises:
        MissingPackageError: There is no adb.
        PhoneError: No phone is connected, the program is not there, or it cannot run the file.
    """
    adb = shutil.which("adb")
    if adb is None:
        raise MissingPackageError(
            "adb is not installed; it comes with Android's platform tools (apt install adb; brew install "
            "android-platform-tools)."
        )
    _call(adb, "get-state", what="no phone is connected")
    if program := os.environ.get(VARIABLE):
        _call(adb, "push", program, _PROGRAM, what=f"{VARIABLE} is {program!r}, which cannot be copied")
        _call(adb, "shell", "chmod", "+x", _PROGRAM, what="the program cannot be made executable")
    with tempfile.TemporaryDirectory(prefix="tfdatafree-phone-") as folder:
        path = Path(folder, "tfdatafree.tflite")
        path.write_bytes(content)
        _call(adb, "push", str(path), f"{_FOLDER}/{path.name}", what="the file cannot be copied")
    try:
        arguments = (f"--graph={_FOLDER}/{path.name}", f"--num_threads={threads}", f"--num_runs={runs}")
        printed = _call(
            adb, "shell", _PROGRAM, *arguments, what=f"benchmark_model does not run; {VARIABLE} may name one to copy"
        )
    finally:
        subprocess.run([adb, "shell", "rm", "-f", f"{_FOLDER}/{path.name}"], capture_output=True, check=False)
    found = re.search(r"Inference \(avg\): ([0-9.e+]+)", printed)
    if found is None:
        lines = [line for line in printed.splitlines() if line.strip()]
        raise PhoneError(
            f"benchmark_model printed no 'Inference (avg)'; its last line: {lines[-1] if lines else 'none'}"
        )
    return float(found.group(1)) / 1e6


def _call(adb: str, *arguments: str, what: str) -> str:
    try:
        done = subprocess.run(
            [adb, *arguments], capture_output=True, text=True, errors="replace", timeout=_LIMIT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PhoneError(f"{what}: adb did not answer within {_LIMIT} s.") from error
    printed = done.stdout + done.stderr
    if done.returncode:
        lines = [line for line in printed.splitlines() if line.strip()]
        raise PhoneError(f"{what}: {lines[-1] if lines else f'adb ended with {done.returncode}'}")
    return printed
