"""OpenVINO on a CPU. It computes quantized files in its own way: its outputs agree, but not bit by bit."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tfdatafree.runtimes.runtime import Runtime, RuntimeFailure, lacks_package, one_line
from tfdatafree.tflite.flatbuffer import File


class _Session:
    def __init__(self, content: bytes):
        import openvino

        self._outputs = File.parse(content).outputs
        try:
            with tempfile.TemporaryDirectory(prefix="tfdatafree-openvino-") as folder:
                path = Path(folder, "model.tflite")  # it tells the format by the name
                path.write_bytes(content)
                self._compiled = openvino.Core().compile_model(path, "CPU")
        except Exception as error:  # whatever it raises, it cannot run the file
            raise RuntimeFailure(one_line(error)) from error

    def run(self, inputs: Sequence[np.ndarray]) -> Mapping[int, np.ndarray]:
        try:
            found = self._compiled(list(inputs))
        except Exception as error:
            raise RuntimeFailure(one_line(error)) from error
        return {index: np.array(found[at]) for at, index in enumerate(self._outputs)}


OPENVINO = Runtime("openvino", _Session, lacks_package("openvino", "pip install openvino"))
