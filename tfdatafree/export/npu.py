"""What a file takes on an Arm Ethos-U: Vela compiles it, and its weights with it, losslessly coded.

Needs the extra `npu` (pip install "tfdatafree[npu]"). Vela runs as a process of its own in a folder of its own.
"""

import csv
import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tfdatafree.errors import ExportError

# What its script runs; the script itself need not be on the path.
_PROGRAM = "import sys; from ethosu.vela.vela import main; sys.exit(main())"
_ACCELERATOR = "ethos-u55-128"
_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class NpuSizes:
    """Vela's summary of one file.

    Attributes:
        bytes: Of the compiled `.tflite`: commands, coded weights, and what stays on the CPU.
        weight_bytes: Of the weights as Vela stores them, coded.
        original_weight_bytes: Of the same weights uncoded.
        macs: Multiplications in one inference, as Vela counts them.
        accelerator: What it was compiled for.
    """

    bytes: int
    weight_bytes: int
    original_weight_bytes: int
    macs: int
    accelerator: str


def compile_for_npu(content: bytes, *, accelerator: str = _ACCELERATOR) -> NpuSizes:
    """Compiles the bytes of an integer `.tflite` with Vela.

    Args:
        accelerator: One of Vela's --accelerator-config.

    Raises:
        ImportError: Vela is not installed.
        ExportError: Vela fails; ends with what it said.
    """
    if importlib.util.find_spec("ethosu") is None:
        raise ImportError('Vela is not installed; run: pip install "tfdatafree[npu]" (or: pip install ethos-u-vela).')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(content)
        command = [sys.executable, "-c", _PROGRAM, "model.tflite", "--output-dir", "out"]
        command += ["--accelerator-config", accelerator]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
        tables = sorted((folder / "out").glob("*_summary_*.csv"))
        compiled = sorted((folder / "out").glob("*_vela.tflite"))
        if done.returncode or not tables or not compiled:
            said = (done.stderr or done.stdout).strip()[-400:]
            raise ExportError(f"Vela did not compile the file for {accelerator}; it said: {said}")
        with tables[0].open(newline="") as file:
            (row,) = csv.DictReader(file)
        return NpuSizes(
            bytes=compiled[0].stat().st_size,
            weight_bytes=int(float(row["total_npu_encoded_weights"])),
            original_weight_bytes=int(float(row["total_original_weights"])),
            macs=int(float(row["nn_macs"])),
            accelerator=accelerator,
        )
