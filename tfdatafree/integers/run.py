"""Runs an integer file operator by operator.

Operators with a kernel in this folder are computed here. All others are computed by LiteRT's reference kernel, alone and on
the integers that were computed so far: those only move values, are read from a table, or compute in float.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfdatafree.integers.arithmetic import ARITHMETIC
from tfdatafree.integers.operation import Kernel, Operation, Unknown
from tfdatafree.integers.pooling import POOLING
from tfdatafree.integers.products import PRODUCTS
from tfdatafree.integers.rectifiers import RECTIFIERS
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.runtime import Runner, reference_runner

KERNELS: dict[str, Kernel] = {**PRODUCTS, **ARITHMETIC, **POOLING, **RECTIFIERS}
_INTEGERS = ("int8", "int16", "int32", "int64", "int4")


class IntegerRunner:
    """Computes a file's integers, a batch of one at a time.

    Args:
        content: The file's bytes.

    Attributes:
        borrowed: Names of the operators that LiteRT computed, with how many of them there were.
    """

    def __init__(self, content: bytes):
        self.file = File.parse(content)
        self._constants = {
            index: constant
            for index in range(len(self.file.tensors))
            if (constant := self.file.constant(index)) is not None
        }
        self._runners: dict[int, Runner] = {}

    @property
    def borrowed(self) -> dict[str, int]:
        names = [self.file.operator_name(self.file.operators[place]) for place in sorted(self._runners)]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The file's outputs as integers for its inputs as integers."""
        values = dict(self.walk(inputs))
        return [values[index] for index in self.file.outputs]

    def walk(self, inputs: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """(index, integers) of every computed tensor, the inputs first, in the order of the file's operators."""
        file, live = self.file, dict(zip(self.file.inputs, inputs, strict=True))
        yield from live.items()
        for place, operator in enumerate(file.operators):
            read = [None if index < 0 else self._constants.get(index, live.get(index)) for index in operator.inputs]
            results = self._compute(place, operator, read)
            for index, result in zip(operator.outputs, results, strict=True):
                live[index] = result
                yield index, result

    def _compute(self, place: int, operator: Any, read: list[np.ndarray | None]) -> list[np.ndarray]:
        file, name = self.file, self.file.operator_name(operator)
        kernel = KERNELS.get(name)
        if kernel is not None and file.dtype(operator.inputs[0]) in _INTEGERS and place not in self._runners:
            operation = Operation(
                name,
                operator.builtinOptions,
                read,
                [self._grid(index) for index in operator.inputs],
                [self._grid(index) for index in operator.outputs],
                [file.shape(index) for index in operator.outputs],
                [np.dtype(file.dtype(index)) for index in operator.outputs],
            )
            try:
                return kernel(operation)
            except Unknown:
                pass
        if place not in self._runners:
            self._runners[place] = reference_runner(file.only(operator).serialize())
        wanted = [
            value for index, value in zip(operator.inputs, read, strict=True) if index in self._computed(operator)
        ]
        return self._runners[place].run([value for value in wanted if value is not None])

    def _grid(self, index: int) -> Quantizer | None:
        """Grid of a tensor of activations or weights. Biases follow from those of what they are added to."""
        narrow = index >= 0 and self.file.dtype(index) in ("int4", "int8", "uint8", "int16")
        return self.file.quantizer(index) if narrow else None

    def _computed(self, operator: Any) -> list[int]:
        """The operator's inputs that are not constant, each once."""
        return [index for index in dict.fromkeys(operator.inputs) if index >= 0 and index not in self._constants]
