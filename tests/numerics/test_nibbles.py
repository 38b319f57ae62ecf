"""Two 4-bit integers per byte."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdatafree.numerics.nibbles import pack, unpack


@given(st.lists(st.integers(-8, 7)))
def test_packing_can_be_undone_and_halves_the_bytes(values):
    packed = pack(np.array(values, np.int8))
    assert packed.dtype == np.uint8 and packed.size == (len(values) + 1) // 2
    np.testing.assert_array_equal(unpack(packed, len(values)), values)


def test_the_earlier_of_two_lies_in_the_low_half():
    assert pack(np.array([[1, -1], [7, -8]])).tolist() == [0xF1, 0x87]


def test_what_four_bits_do_not_hold_is_an_error():
    with pytest.raises(ValueError, match=r"go from -3 to 8; 4 bits hold -8 to 7"):
        pack(np.array([-3, 8]))
