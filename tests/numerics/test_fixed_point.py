import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdatafree.numerics.fixed_point import fixed_point, rescale, rescale_once, rescale_wide, rounded_quotient

FACTORS = st.floats(2.0**-20, 2.0**6)


@given(FACTORS)
@settings(max_examples=100)
def test_the_fixed_point_form_is_the_nearest_with_31_bits(factor):
    form = fixed_point(factor)
    assert 2**30 <= form.m < 2**31
    assert abs(form.m * 2.0 ** (form.shift - 31) - factor) <= factor * 2.0**-31


@given(FACTORS, st.integers(-(2**23), 2**23))
@settings(max_examples=300)
def test_a_product_is_rounded_to_a_neighbour(factor, value):
    exact = value * factor
    for function, slack in ((rescale, 0.5), (rescale_once, 0.0), (rescale_wide, abs(exact) * 2.0**-15)):
        found = int(function(np.array(value), fixed_point(factor)))
        assert abs(found - exact) <= 0.5 + slack + abs(exact) * 2.0**-30 + 1e-6, function.__name__


def test_halves_are_rounded_away_from_zero_or_up():
    values = np.array([-20, -4, 4, 20])  # times 1/8: -2.5, -0.5, 0.5, 2.5
    np.testing.assert_array_equal(rescale(values, fixed_point(0.125)), [-3, -1, 1, 3])
    np.testing.assert_array_equal(rescale_once(values, fixed_point(0.125)), [-2, 0, 1, 3])
    np.testing.assert_array_equal(rounded_quotient(values, 8), [-3, -1, 1, 3])


def test_rounding_twice_moves_what_the_first_rounding_made_a_half():
    # 11 x 0.227 = 2.497: rounded once it is 2. With less digits in between, 2.5 would be 3.
    factor = fixed_point(382**-1 * 2.4999999999)
    assert int(rescale_once(np.array(382), factor)) == 2 and int(rescale(np.array(382), factor)) == 3


def test_one_factor_per_channel_is_each_factor_alone():
    factors, values = np.array([0.3, 2.5, 0.0]), np.array([[100, -7, 5], [3, 11, 9]])
    together = rescale(values, fixed_point(factors))
    for channel, factor in enumerate(factors):
        np.testing.assert_array_equal(together[:, channel], rescale(values[:, channel], fixed_point(float(factor))))
    assert not together[:, 2].any()
