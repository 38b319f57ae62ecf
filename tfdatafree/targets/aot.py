"""Compiles a file for a phone's NPU with LiteRT's ahead-of-time API, `ai_edge_litert.aot`, and reads what came of it.

LiteRT brings a plugin for each vendor. The compiler itself is in the vendor's SDK, which the user installs under the vendor's
licence. It runs in a process and a folder of its own. `chips` and `is_installed` read LiteRT's own modules, so that a
new version of LiteRT brings its new chips.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfdatafree.errors import ExportError
from tfdatafree.files import temporary_folder
from tfdatafree.targets.check import operator_key
from tfdatafree.targets.target import DISPATCHED, VendorCompiler
from tfdatafree.tflite.flatbuffer import File

_PROGRAM = Path(__file__).with_name("aot_program.py")
_SECONDS = 600
_LONGEST = 400
# LiteRT names a log, which is in the folder that is then gone.
_LOG_FILE = re.compile(r" See \S+ for details\.")
_NEXT = ("INFO", "WARNING", "ERROR", "VERBOSE", "[")


@dataclass(frozen=True, kw_only=True)
class CompiledForChip:
    """What a vendor's compiler made of one file.

    Attributes:
        chip: The chip that it was compiled for.
        bytes: Bytes of the compiled `.tflite`: the NPU's program, and what the CPU computes.
        operators: Number of operators of the file.
        left: Operator that the compiler leaves to the CPU, named by `check.operator_key` -> why.
        partitions: Number of pieces that the NPU computes in one go. Data travels between NPU and CPU around each.
        seconds: Time of compiling.
    """

    chip: str
    bytes: int
    operators: int
    left: dict[str, str]
    partitions: int
    seconds: float

    def __str__(self) -> str:
        done = self.operators - len(self.left)
        share = int(100 * done / self.operators) if self.operators else 100
        return "\n".join(
            [
                f"compiled   for {self.chip} in {self.seconds:.1f} s: {self.bytes:,} bytes",
                f"operators  {done} of {self.operators} on the NPU ({share} %)",
                f"pieces     {self.partitions}",
            ]
        )


def chips(compiler: VendorCompiler) -> dict[str, str]:
    """The compiler's chips: name in a target's name -> name in LiteRT's `SocModel`, e.g. {"g5": "Tensor_G5"}.

    Empty if the installed LiteRT has no such compiler.
    """
    try:
        target = importlib.import_module(f"ai_edge_litert.aot.vendors.{compiler.vendor}.target")
    except ImportError:
        return {}
    # "ALL" stands for every chip.
    return {chip.value.rpartition("_")[2].lower(): chip.value for chip in target.SocModel if chip.value != "ALL"}


def is_installed(compiler: VendorCompiler) -> bool:
    """Whether LiteRT's backend would find its plugin and the vendor's SDK. Loads nothing of the vendor."""
    try:
        name = f"ai_edge_litert.aot.vendors.{compiler.vendor}.{compiler.vendor}_backend"
        plugin = importlib.import_module(name).COMPILER_PLUGIN_LIB_PATH
        importlib.import_module("ai_edge_litert.aot.core.common").get_resource(plugin)
    except (ImportError, FileNotFoundError):
        return False
    if os.environ.get(compiler.variable):
        return True
    return any(importlib.util.find_spec(package) is not None for package in compiler.packages)


def compile_for_chip(content: bytes, compiler: VendorCompiler, *, seconds: float = _SECONDS) -> CompiledForChip:
    """Compiles the bytes of a `.tflite` for the chip that `compiler` names.

    Args:
        seconds: Time limit. What still runs then is ended.

    Raises:
        ExportError: The compiler fails, or takes too long; the message ends with what it said.
    """
    with temporary_folder() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(content)
        for inner in ("out", "temporary", "mediatek"):
            (folder / inner).mkdir()
        command = [sys.executable, str(_PROGRAM), "model.tflite", "out", compiler.vendor, compiler.chip]
        said = _run(command, folder, compiler.chip, seconds)
        told, compiled = folder / "out" / "outcome.json", folder / "out" / "compiled.tflite"
        outcome = json.loads(told.read_text()) if told.exists() else {"failures": []}
        if not compiled.exists():
            logs = "".join(path.read_text(errors="replace") for path in (folder / "temporary").glob("*.error"))
            reason = _first_error(logs) or _LOG_FILE.sub("", "; ".join(outcome["failures"])) or _last_line(said)
            raise ExportError(
                f"LiteRT's compiler did not compile the file for {compiler.chip}; it said: {reason[:_LONGEST]}"
            )
        return _read(content, compiled.read_bytes(), compiler.chip, outcome["seconds"])


def _run(command: list[str], folder: Path, chip: str, seconds: float) -> str:
    """What the command writes. It and all that it starts end with this call.

    Raises:
        ExportError: It takes longer than `seconds`.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        raise ExportError(
            f"LiteRT's compiler did not compile the file for {chip} within {seconds:g} seconds."
        ) from None
    finally:
        # The vendor's compiler is a process of the process, in the same session.
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _environment(folder: Path) -> Mapping[str, str]:
    """This process's variables, with all temporary files in `folder`, MediaTek's too, and without progress bars."""
    temporary = str(folder / "temporary")
    mediatek = str(folder / "mediatek")
    return {
        **os.environ,
        "TMPDIR": temporary,
        "TEMP": temporary,
        "TMP": temporary,
        "MTKNN_ADAPTER_DLA_DIR": mediatek,
        "TQDM_DISABLE": "1",
    }


def _first_error(log: str) -> str:
    """The end of the first error in a log of LiteRT, which names the cause; "" without one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    at = next((i for i, line in enumerate(lines) if "ERROR" in line), None)
    if at is None:
        return ""
    end = next((i for i, line in enumerate(lines) if i > at and line.startswith(_NEXT)), len(lines))
    return lines[end - 1].lstrip("└ ")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "nothing"


def _read(content: bytes, compiled: bytes, chip: str, seconds: float) -> CompiledForChip:
    """The figures of a compiled file. LiteRT keeps the operators that it leaves to the CPU.

    Raises:
        ExportError: The file cannot be read.
    """
    left: dict[str, str] = {}
    pieces = 0
    try:
        file = File.parse(compiled)
        for operator in file.operators:
            if file.operator_name(operator) == DISPATCHED:
                pieces += 1
            else:
                left[operator_key(file, operator, left)] = f"LiteRT's compiler for {chip} leaves it to the CPU"
    except Exception as error:  # a damaged table can raise struct, index, value, type and other errors
        raise ExportError(f"LiteRT's compiler for {chip} made a file that is no TFLite file.") from error
    return CompiledForChip(
        chip=chip,
        bytes=len(compiled),
        operators=len(File.parse(content).operators),
        left=left,
        partitions=pieces,
        seconds=seconds,
    )
