"""The memory that a runtime takes for the tensors of a file.

A planner gives each tensor a place in one piece of memory, the arena. It may share the place with tensors that live at other
times. A tensor lives from the operator that writes it to the last one that reads it; inputs live from the start, outputs to the
end. TensorFlow Lite and TensorFlow Lite Micro plan greedily by size (Pisarchyk and Lee 2020, "Efficient Memory Management for
Deep Neural Net Inference", algorithm 3): tensors in the order of their sizes, the largest first, each at the lowest place that
no other one with a common time takes. So that

    what lives at one time, at most  <=  the arena  <=  the sum of all tensors.

The memory that a kernel needs for itself comes on top; each runtime has its own.
"""

import math
from dataclasses import dataclass

import numpy as np

from tfdatafree.tflite.flatbuffer import File

# Runtimes start each tensor at a multiple of so many bytes.
_ALIGNMENT = 16


@dataclass(frozen=True)
class Tenant:
    """A tensor of the arena.

    Attributes:
        size: Bytes.
        first, last: Operators, as positions in the file, between which it lives, both included.
    """

    size: int
    first: int
    last: int

    def meets(self, other: "Tenant") -> bool:
        """Whether both live at one time."""
        return self.first <= other.last and other.first <= self.last


def arena_bytes(file: File) -> int | None:
    """Bytes of the arena as planned; None for a file with tensors whose size is not known."""
    found = tenants(file)
    return None if found is None else planned_bytes(found)


def tenants(file: File) -> list[Tenant] | None:
    """The tensors of the arena: all that are not constant. None if the size of one is not known."""
    first: dict[int, int] = dict.fromkeys(file.inputs, 0)
    last: dict[int, int] = dict.fromkeys(file.inputs, 0)
    for at, operator in enumerate(file.operators):
        for index in operator.inputs:
            if index in first:
                last[index] = at
        for index in operator.outputs:
            first.setdefault(index, at)
            last[index] = max(last.get(index, at), at)
    for index in file.outputs:
        if index in first:
            last[index] = len(file.operators)
    sizes = {index: _bytes_of(file, index) for index in first}
    return None if None in sizes.values() else [Tenant(sizes[index] or 0, first[index], last[index]) for index in first]


def planned_bytes(found: list[Tenant]) -> int:
    """Bytes of an arena that has a place for each of `found`, planned greedily by size."""
    placed: list[tuple[int, int, Tenant]] = []
    for tenant in sorted(found, key=lambda tenant: (-tenant.size, tenant.first)):
        start = 0
        for low, high, _ in sorted(
            ((low, high, other) for low, high, other in placed if other.meets(tenant)), key=lambda p: p[:2]
        ):
            if start + tenant.size <= low:
                break
            start = max(start, high)
        placed.append((start, start + -(-tenant.size // _ALIGNMENT) * _ALIGNMENT, tenant))
    return max((high for _, high, _ in placed), default=0)


def _bytes_of(file: File, index: int) -> int | None:
    """Bytes of a tensor; a size of -1, for a batch that is not fixed, counts as 1. None for texts and other types."""
    dtype = file.dtype(index)
    if dtype.startswith("type "):
        return None
    values = math.prod(max(size, 1) for size in file.shape(index))
    return -(-values // 2) if dtype == "int4" else values * np.dtype(dtype).itemsize
