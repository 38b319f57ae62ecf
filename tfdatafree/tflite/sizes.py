"""What a file takes: packed, and in multiplications; how many of its weights are zero.

A zero takes a byte in a `.tflite` like any other integer. It is worth something where the file is packed (gzip, an
app's package), and where a compiler codes weights (`targets/vela.py`). TFLite's own sparse tensors are not written. With the
converter of TensorFlow 2.21 (EXPERIMENTAL_SPARSITY) and LiteRT, for kernels with 80 % zeros:

    FULLY_CONNECTED, float32, blocks of 4 or 16 inputs    read as they are
    FULLY_CONNECTED, int8, blocks of 16 inputs            read as they are; without activations in int8 (dynamic range)
                                                          the outputs are wrong once XNNPACK is on, as it is by default
    FULLY_CONNECTED, int8, any other zeros                a DENSIFY operator is put before it; XNNPACK refuses to prepare it
    CONV_2D, any type, any zeros                          DENSIFY: smaller on disk, dense in memory, no faster

so that only large dense layers in one block pattern would gain, and a file might not load.
"""

import gzip
import io
import math
from collections.abc import Iterable

import numpy as np

from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.operators import OPERATORS


def gzip_bytes(parts: Iterable[bytes]) -> int:
    """Bytes of all `parts` together behind gzip, as a download is sent."""
    packed = _Counter()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
        for part in parts:
            file.write(part)
    return packed.size


class _Counter(io.RawIOBase):
    """A file that remembers only how long it is."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.size += len(data)
        return len(data)


def kernel_zeros(content: bytes) -> float:
    """Part of the weights of the kernels of a `.tflite` that is zero; 0 for a file without kernels."""
    file = File.parse(content)
    kernels = {}
    for operator in file.operators:
        rules = OPERATORS.get(file.operator_name(operator))
        if rules is not None and rules.kernel is not None:
            kernels[int(operator.inputs[rules.kernel])] = None
    # A file with float16 weights widens them by an operator first.
    widened = {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in file.operators
        if file.operator_name(operator) == "DEQUANTIZE"
    }
    values = [file.constant(widened.get(index, index)) for index in kernels]
    known = [array for array in values if array is not None]
    total = sum(array.size for array in known)
    return 1 - sum(np.count_nonzero(array) for array in known) / total if total else 0.0


def macs(content: bytes) -> int:
    """Multiplications of one inference in convolutions and dense layers, padding counted as input."""
    file, total = File.parse(content), 0
    for operator in file.operators:
        name = file.operator_name(operator)
        rules = OPERATORS.get(name)
        if rules is None or rules.kernel is None:
            continue
        kernel = file.shape(int(operator.inputs[rules.kernel]))
        # Each output value takes a kernel without its output channels; of a transposed convolution each input value.
        counted = int(operator.inputs[rules.operands[0]]) if name == "TRANSPOSE_CONV" else int(operator.outputs[0])
        channels = kernel[rules.kernel_axis] if name != "TRANSPOSE_CONV" else kernel[-1]
        total += math.prod(file.shape(counted)) * math.prod(kernel) // channels
    return total
