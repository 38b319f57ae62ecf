"""Packs two 4-bit integers into a byte, as in TFLite's INT4 tensors: the first one is in the low half."""

import numpy as np


def pack(values: np.ndarray) -> np.ndarray:
    """Packs integers from -8 to 7, of any shape, into uint8 bytes: half as many as values, rounded up.

    Guarantees unpack(pack(v), v.size) == v.ravel().
    """
    flat = np.asarray(values).reshape(-1)
    if flat.size and not -8 <= flat.min() <= flat.max() <= 7:
        raise ValueError(f"the integers go from {flat.min()} to {flat.max()}; 4 bits hold -8 to 7.")
    even = np.zeros(flat.size + flat.size % 2, np.int8)
    even[: flat.size] = flat
    halves = even.view(np.uint8) & 0x0F
    return halves[0::2] | halves[1::2] << 4


def unpack(packed: np.ndarray, count: int) -> np.ndarray:
    """The first `count` integers of `packed`, int8."""
    halves = np.empty(2 * packed.size, np.uint8)
    halves[0::2], halves[1::2] = packed & 0x0F, packed >> 4
    # Shifted to the upper half and back, so that the sign bit of the half fills the byte.
    return (halves[:count] << 4).view(np.int8) >> 4
