"""TFLite Micro, the interpreter for microcontrollers, as its Python package runs it on this machine."""

from collections.abc import Mapping, Sequence

import numpy as np

from tfdatafree.runtimes.runtime import Runtime, RuntimeFailure, lacks_package, one_line
from tfdatafree.tflite.flatbuffer import File

# Bytes for all tensors and the interpreter's own data. It is only reserved, not filled.
_ARENA = 1 << 30


class _Session:
    def __init__(self, content: bytes):
        from tflite_micro import runtime

        self._file = File.parse(content)
        try:
            self._interpreter = runtime.Interpreter.from_bytes(
                content, arena_size=_ARENA, intrepreter_config=runtime.InterpreterConfig.kPreserveAllTensors
            )
        except Exception as error:  # whatever it raises, it cannot run the file
            raise RuntimeFailure(one_line(error)) from error

    def run(self, inputs: Sequence[np.ndarray]) -> Mapping[int, np.ndarray]:
        try:
            for at, array in enumerate(inputs):
                self._interpreter.set_input(array, at)
            self._interpreter.invoke()
            found = {
                index: np.array(self._interpreter.GetTensor(index, 0)["tensor_data"]).reshape(self._file.shape(index))
                for operator in self._file.operators
                for index in operator.outputs
            }
        except Exception as error:
            raise RuntimeFailure(one_line(error)) from error
        outputs = {index: self._interpreter.get_output(at) for at, index in enumerate(self._file.outputs)}
        return found | outputs


def arena_bytes(content: bytes) -> int | None:
    """Bytes of the smallest arena in which the interpreter opens the file, to 16 bytes; None if it cannot open it.

    The interpreter does not tell, so the size is found by halving. It is that of a 64-bit machine: pointers take more than on a
    microcontroller. For each size that is too small the interpreter writes a line to file descriptor 2.
    """
    from tflite_micro import runtime

    def opens(size: int) -> bool:
        try:
            runtime.Interpreter.from_bytes(content, arena_size=size)
        except Exception:
            return False
        return True

    most = 1 << 12
    while not opens(most):
        most *= 2
        if most > _ARENA:
            return None
    least = 0 if most == 1 << 12 else most // 2
    while most - least > 16:
        middle = (least + most) // 2
        least, most = (least, middle) if opens(middle) else (middle, most)
    return most


TFLITE_MICRO = Runtime(
    "tflite-micro",
    _Session,
    lacks_package("tflite_micro", "pip install tflite-micro"),
)
