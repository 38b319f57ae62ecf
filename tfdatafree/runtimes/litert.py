"""LiteRT twice: with XNNPACK, as apps run it on a CPU, and with its reference kernels, which define what a file computes."""

from collections.abc import Mapping, Sequence

import numpy as np

from tfdatafree.runtimes.runtime import Runtime, RuntimeFailure, one_line
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.runtime import Runner, reference_runner


class _Session:
    """A LiteRT interpreter; one that keeps its tensors shows those that operators write."""

    def __init__(self, runner: Runner, shown: Sequence[int]):
        self._runner, self._shown = runner, shown

    def run(self, inputs: Sequence[np.ndarray]) -> Mapping[int, np.ndarray]:
        outputs = self._runner.run(inputs)
        found = {detail["index"]: value for detail, value in zip(self._runner.outputs, outputs, strict=True)}
        values = {index: self._runner.value(index) for index in self._shown}
        return {index: value.copy() for index, value in values.items() if value is not None} | found


def _open(content: bytes, reference: bool) -> _Session:
    try:
        if not reference:
            return _Session(Runner(content), [])
        computed = [index for operator in File.parse(content).operators for index in operator.outputs]
        return _Session(reference_runner(content), computed)
    except ValueError as error:
        raise RuntimeFailure(one_line(error)) from error


LITERT = Runtime("litert", lambda content: _open(content, False))
REFERENCE = Runtime("litert-reference", lambda content: _open(content, True))
