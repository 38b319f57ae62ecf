"""Runs a file in a process of its own first, if it has operators whose kernels might end the process that runs them.

Most files have none: what their kernels do not take is known beforehand (`tflite/kernel_limits.py`).
"""

from tfdatafree.errors import ExportError
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.kernel_limits import SAFE
from tfdatafree.tflite.trial import failure_of


def require_runnable(content: bytes, file: File) -> None:
    """Raises ExportError, naming the operator, if LiteRT cannot run a file; does nothing for operators known to be safe.

    Args:
        content: The bytes of the file.
        file: The file, as it was read from them.
    """
    if all(_is_safe(file, operator) for operator in file.operators):
        return
    failure = failure_of(content)
    if failure is None:
        return
    runs, fails = 0, len(file.operators)  # the first `runs` operators can be run, the first `fails` cannot
    while fails - runs > 1:
        middle = (runs + fails) // 2
        shorter = failure_of(_first_operators(file, middle))
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
