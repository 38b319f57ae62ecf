"""Compiles a file with Vela, Arm's compiler for the Ethos-U, and reads its figures: sizes, memory, time.

Vela codes the weights without loss. Memory and time are its estimates for its default system of each accelerator, which the
result names. It needs the package ethos-u-vela, and runs in a process and a folder of its own.
"""

import csv
import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tfdatafree.errors import ExportError, MissingPackageError
from tfdatafree.files import temporary_folder
from tfdatafree.targets.check import operator_key
from tfdatafree.targets.ethos_u import COMPILED_BY_VELA
from tfdatafree.tflite.flatbuffer import File

# The program behind the command `vela`, which need not be on the path.
_PROGRAM = "import sys; from ethosu.vela.vela import main; sys.exit(main())"
_ACCELERATOR = "ethos-u55-128"
_SECONDS = 600
_KIB = 1024
_REASON = re.compile(r"operator: (\S+), ofm: '(.*)'\nReason: (.*)")
HOW_TO_GET_VELA = "Vela is not installed; run: pip install ethos-u-vela."


@dataclass(frozen=True, kw_only=True)
class NpuSizes:
    """Vela's summary of one file.

    Attributes:
        bytes: Bytes of the compiled `.tflite`: commands, coded weights, and what the CPU computes.
        weight_bytes: Bytes of the weights as Vela codes them.
        original_weight_bytes: Bytes of the same weights uncoded.
        macs: Number of multiplications in one inference, as Vela counts them.
        accelerator: The accelerator that it was compiled for.
        operators: Number of operators of the file.
        left: Operator that Vela leaves to the CPU, named by `check.operator_key` -> the reason that it gives.
        sram_bytes, dram_bytes, flash_bytes: Memory that the network takes.
        seconds: Estimated time of one inference.
        clock_hz: Clock of the accelerator for this estimate.
        system, memory_mode: Vela's system configuration and memory mode for these estimates.
    """

    bytes: int
    weight_bytes: int
    original_weight_bytes: int
    macs: int
    accelerator: str
    operators: int
    left: dict[str, str]
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    seconds: float
    clock_hz: float
    system: str
    memory_mode: str

    @property
    def share(self) -> float:
        """Part of the file's operators that the NPU computes, 0 to 1."""
        return 1 - len(self.left) / self.operators if self.operators else 1.0

    def __str__(self) -> str:
        done = self.operators - len(self.left)
        memory = {"SRAM": self.sram_bytes, "DRAM": self.dram_bytes, "flash": self.flash_bytes}
        taken = ", ".join(f"{size / 1024:,.0f} KiB {name}" for name, size in memory.items() if size)
        return "\n".join(
            [
                f"Vela       for {self.accelerator} at {self.clock_hz / 1e6:g} MHz ({self.system}, {self.memory_mode})",
                f"operators  {done} of {self.operators} on the NPU ({int(100 * self.share)} %)",
                f"memory     {taken or 'none'}",
                f"inference  {1000 * self.seconds:.3g} ms estimated, {self.macs:,} multiplications",
                f"compiled   {self.bytes:,} bytes; weights {self.original_weight_bytes:,} -> {self.weight_bytes:,} bytes",
            ]
        )


def vela_is_installed() -> bool:
    return importlib.util.find_spec("ethosu") is not None


def compile_for_npu(content: bytes, *, accelerator: str = _ACCELERATOR) -> NpuSizes:
    """Compiles the bytes of an integer `.tflite` with Vela.

    Args:
        accelerator: One of Vela's --accelerator-config.

    Raises:
        MissingPackageError: Vela is not installed.
        ExportError: Vela fails; the message ends with Vela's output.
    """
    if not vela_is_installed():
        raise MissingPackageError(HOW_TO_GET_VELA)
    with temporary_folder() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(content)
        command = [sys.executable, "-c", _PROGRAM, "model.tflite", "--output-dir", "out"]
        command += ["--accelerator-config", accelerator]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ExportError(f"Vela did not compile the file for {accelerator} within {_SECONDS} seconds.") from None
        tables = sorted((folder / "out").glob("*_summary_*.csv"))
        compiled = sorted((folder / "out").glob("*_vela.tflite"))
        if done.returncode or not tables or not compiled:
            # The last line of a traceback says what was wrong.
            said = (done.stderr or done.stdout).strip().rpartition("\n")[2][:400]
            raise ExportError(f"Vela did not compile the file for {accelerator}; it said: {said}")
        with tables[0].open(newline="") as file:
            (row,) = csv.DictReader(file)
        return NpuSizes(
            bytes=compiled[0].stat().st_size,
            weight_bytes=int(float(row["total_npu_encoded_weights"])),
            original_weight_bytes=int(float(row["total_original_weights"])),
            macs=int(float(row["nn_macs"])),
            accelerator=accelerator,
            operators=len(File.parse(content).operators),
            left=_left_to_the_cpu(compiled[0].read_bytes(), done.stdout + done.stderr),
            sram_bytes=round(_KIB * float(row["sram_memory_used"])),
            dram_bytes=round(_KIB * float(row["dram_memory_used"])),
            flash_bytes=round(
                _KIB * (float(row["on_chip_flash_memory_used"]) + float(row["off_chip_flash_memory_used"]))
            ),
            seconds=float(row["inference_time"]),
            clock_hz=float(row["core_clock"]),
            system=row["system_config"],
            memory_mode=row["memory_mode"],
        )


def _left_to_the_cpu(compiled: bytes, said: str) -> dict[str, str]:
    """Operators of a compiled file that the CPU computes -> Vela's reason. Vela keeps these operators as they were."""
    reasons = {f"{kind} {tensor}": reason for kind, tensor, reason in _REASON.findall(said)}
    file, found = File.parse(compiled), {}
    for operator in file.operators:
        if file.operator_name(operator) != COMPILED_BY_VELA:
            key = operator_key(file, operator, found)
            found[key] = reasons.get(key, "Vela has no such operator for it").strip()
    return found
