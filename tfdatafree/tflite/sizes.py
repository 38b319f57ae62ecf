"""Measures of a file: bytes after gzip, multiplications, and the fraction of weights that are zero.

A zero takes a byte in a `.tflite` like any other integer. It saves space where the file is packed (gzip, an app's
package), and where a compiler codes weights (`targets/vela.py`). TFLite's sparse tensors are not written, for this reason.
The converter of TensorFlow 2.21 (EXPERIMENTAL_SPARSITY) and LiteRT were tried with kernels of 80 % zeros:

    FULLY_CONNECTED, float32, blocks of 4 or 16 inputs    reads them directly
    FULLY_CONNECTED, int8, blocks of 16 inputs            reads them directly; but with float activations (dynamic range)
                                                          the outputs are wrong with XNNPACK, which is on by default
    FULLY_CONNECTED, int8, any other zeros                gets a DENSIFY operator, which XNNPACK cannot prepare
    CONV_2D, any type, any zeros                          gets a DENSIFY operator: smaller on disk, dense in memory, no faster

so that only large dense layers in one block pattern would gain, and some files would not load.
"""

import gzip
import io
import math
from collections.abc import Iterable

import numpy as np

from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.operators import OPERATORS


def gzip_bytes(parts: Iterable[bytes]) -> int:
    """Bytes of all `parts` together after gzip, as in a download."""
    counter = _Counter()
    with gzip.GzipFile(fileobj=counter, mode="wb", compresslevel=9, mtime=0) as file:
        for part in parts:
            file.write(part)
    return counter.size


class _Counter(io.RawIOBase):
    """A file that counts its bytes and stores none."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.size += len(data)
        return len(data)


def kernel_zeros(content: bytes) -> float:
    """Fraction of zeros among the kernel weights of a `.tflite`; 0 for a file without kernels."""
    file = File.parse(content)
    kernels = {}
    for operator in file.operators:
        rules = OPERATORS.get(file.operator_name(operator))
        if rules is not None and rules.kernel is not None:
            kernels[int(operator.inputs[rules.kernel])] = None
    # A file with float16 weights first converts them with an operator.
    widened = {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in file.operators
        if file.operator_name(operator) == "DEQUANTIZE"
    }
    values = [file.constant(widened.get(index, index)) for index in kernels]
    constants = [array for array in values if array is not None]
    total = sum(array.size for array in constants)
    return 1 - sum(np.count_nonzero(array) for array in constants) / total if total else 0.0


def macs(file: File) -> int:
    """Multiplications of one inference in convolutions and dense layers, padding counted as input."""
    total = 0
    for operator in file.operators:
        name = file.operator_name(operator)
        rules = OPERATORS.get(name)
        if rules is None or rules.kernel is None:
            continue
        kernel = file.shape(int(operator.inputs[rules.kernel]))
        # Each output value takes as many multiplications as the kernel has weights for one output channel. In a transposed
        # convolution each input value takes as many as there are weights for one input channel.
        tensor = int(operator.inputs[rules.source]) if name == "TRANSPOSE_CONV" else int(operator.outputs[0])
        channels = kernel[rules.kernel_axis] if name != "TRANSPOSE_CONV" else kernel[-1]
        total += math.prod(file.shape(tensor)) * math.prod(kernel) // channels
    return total
