"""Arm's TOSA: the converter from TFLite, and the reference model that defines what TOSA operators compute.

Its packages need an older NumPy. So they live in a Python environment of their own, and the environment variable
TFDATAFREE_TOSA_PYTHON names its interpreter:

    tosa-converter-for-tflite FILE.tflite   ->  tosa-opt --tosa-serialize  ->  tosa_reference_model
"""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tfdatafree.runtimes.runtime import Runtime, RuntimeFailure, one_line
from tfdatafree.tflite.flatbuffer import File

VARIABLE = "TFDATAFREE_TOSA_PYTHON"
_PROGRAMS = ("tosa-converter-for-tflite", "tosa-opt", "tosa_reference_model")
_INSTALL = (
    "make an environment with pip install 'numpy<2.2' tosa-converter-for-tflite tosa-tools, and let "
    f"{VARIABLE} name its python"
)
# Seconds that one program may take.
_LIMIT = 600


def _missing() -> str:
    python = os.environ.get(VARIABLE)
    if not python:
        return f"{VARIABLE} is not set: {_INSTALL}"
    lacking = [program for program in _PROGRAMS if not (Path(python).parent / program).is_file()]
    return f"{VARIABLE} is {python!r}, which has no {lacking[0]} beside it: {_INSTALL}" if lacking else ""


class _Session:
    def __init__(self, content: bytes):
        self._file = File.parse(content)
        self._folder = tempfile.TemporaryDirectory(prefix="tfdatafree-tosa-")
        self._path = Path(self._folder.name)
        (self._path / "model.tflite").write_bytes(content)
        self._call("tosa-converter-for-tflite", "model.tflite", "--bytecode", "-o", "model.mlirbc")
        self._call(
            "tosa-opt", "model.mlirbc", "--tosa-serialize", "--tosa-flatbuffer-filename=model.tosa", "-o", "rest"
        )

    def run(self, inputs: Sequence[np.ndarray]) -> Mapping[int, np.ndarray]:
        for at, array in enumerate(inputs):
            np.save(self._path / f"input_{at}.npy", array)
        places, results = range(len(inputs)), range(len(self._file.outputs))
        self._call(
            "tosa_reference_model",
            "--tosa_file=model.tosa",
            "--flatbuffer_dir=.",
            "--output_dir=.",
            f"--ifm_name={','.join(f'TosaInput_{at}' for at in places)}",
            f"--ifm_file={','.join(f'input_{at}.npy' for at in places)}",
            f"--ofm_name={','.join(f'TosaOutput_{at}' for at in results)}",
            f"--ofm_file={','.join(f'output_{at}.npy' for at in results)}",
            "--tosa_level=NONE",
        )
        return {index: np.load(self._path / f"output_{at}.npy") for at, index in enumerate(self._file.outputs)}

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(Path(os.environ[VARIABLE]).parent / program), *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        try:
            done = subprocess.run(
                command,
                cwd=self._path,
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LIMIT,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeFailure(f"{program}: {one_line(error)}") from error
        if done.returncode:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            reason = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
            raise RuntimeFailure(f"{program} ended with {done.returncode}: {reason.strip()[:150]}")


TOSA = Runtime("tosa", _Session, _missing)
