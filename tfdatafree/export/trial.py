"""Runs a file in a process of its own first, if it has operators whose kernels might end the process that runs them.

Most files have none: what their kernels do not take is known beforehand (`tflite/kernel_limits.py`).
"""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tfdatafree.errors import ExportError
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.kernel_limits import SAFE

# Runs a file with and without XNNPACK on the lowest, the highest and random integers.
_CHILD = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

random = np.random.default_rng(0)
content = open(sys.argv[1], "rb").read()
for resolver in (OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.AUTO):
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()
    for at in range(3):
        for detail in interpreter.get_input_details():
            shape, dtype = detail["shape"], detail["dtype"]
            if np.dtype(dtype).kind in "iu":
                low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
                value = np.full(shape, (low, high)[at]) if at < 2 else random.integers(low, high, shape, endpoint=True)
            else:
                value = np.full(shape, at) if at < 2 else random.uniform(-1, 1, shape)
            interpreter.set_tensor(detail["index"], np.asarray(value, dtype))
        interpreter.invoke()
"""


def require_runnable(content: bytes, file: File) -> None:
    """Raises ExportError, naming the operator, if LiteRT cannot run a file; does nothing for operators known to be safe.

    Args:
        content: The bytes of the file.
        file: The file, as it was read from them.
    """
    if all(_is_safe(file, operator) for operator in file.operators):
        return
    failure = _failure(content)
    if failure is None:
        return
    runs, fails = 0, len(file.operators)  # the first `runs` operators can be run, the first `fails` cannot
    while fails - runs > 1:
        middle = (runs + fails) // 2
        shorter = _failure(_first_operators(file, middle))
        runs, fails, failure = (middle, fails, failure) if shorter is None else (runs, middle, shorter)
    operator = file.operators[fails - 1]
    raise ExportError(
        f"LiteRT cannot run {file.operator_name(operator)}, which computes '{file.name(operator.outputs[0])}': {failure}. Keep "
        "its layer in float with Rule(..., keep_float=True), or replace it."
    )


def _is_safe(file: File, operator) -> bool:
    tensors = [index for index in (*operator.inputs, *operator.outputs) if index >= 0]
    return file.operator_name(operator) in SAFE or all(file.dtype(index) not in ("int8", "int16") for index in tensors)


def _first_operators(file: File, count: int) -> bytes:
    """The file that ends after its first `count` operators."""
    file = file.copy()
    file.graph.operators = file.operators[:count]
    file.graph.outputs = [index for operator in file.graph.operators for index in operator.outputs]
    file.model.signatureDefs = []
    return file.serialize()


def _failure(content: bytes) -> str | None:
    """What happens to a process that runs the file; None: nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.tflite"
        path.write_bytes(content)
        try:
            # -P: no module of the user's current folder is imported.
            child = subprocess.run(
                [sys.executable, "-P", "-c", _CHILD, str(path)], capture_output=True, text=True, errors="replace"
            )
        except OSError:  # no process can be started here
            return None
    if child.returncode == 0:
        return None
    if child.returncode < 0:
        return f"it ends the process ({signal.Signals(-child.returncode).name})"
    return (child.stderr.strip().splitlines() or ["no reason is given"])[-1][:200]
