"""Which operators stay in float because a division reads them. Divisions themselves do, too (tflite/kernel_limits.py).

TFLite's integer DIV ends with an error, or ends the process, at the first divisor that rounds to the integer of 0.0. Any
divisor may do so: a range always holds 0.0. In float the divisor is as the network computes it, if what writes it is in float,
too: of (high - low + 1e-6) the 1e-6 remains. The root of a small variance is in float, too, if the divisor is such a root, or a
sum with it: TFLite's tables of roots are too coarse near 0.
"""

from tfdatafree.tflite.flatbuffer import FLOAT32, File

_REASON = "an integer division fails where its divisor rounds to zero"


def kept_for_division(file: File) -> dict[int, str]:
    """Divisor of a float file -> why the operator that writes it stays in float."""
    reasons: dict[int, str] = {}
    writers = {int(index): operator for operator in file.operators for index in operator.outputs}
    for operator in file.operators:
        if file.operator_name(operator) != "DIV" or file.tensors[operator.outputs[0]].type != FLOAT32:
            continue
        divisor = int(operator.inputs[1])
        if file.constant(divisor) is not None:
            continue
        reasons[divisor] = _REASON
        writer = writers.get(divisor)
        for index in () if writer is None else (int(i) for i in writer.inputs):
            if index in writers and file.operator_name(writers[index]) == "SQRT":
                reasons[index] = "the divisor of a division is its root, which integers hold too coarsely near 0"
    return reasons
