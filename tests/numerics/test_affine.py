import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tfdatafree.numerics.affine import Quantizer, activation_quantizer, nudged_grid, weight_quantizer

floats = st.floats(-1e6, 1e6, allow_subnormal=False)
# float32 results have a rounding error of half a unit in the 24th binary digit, besides half the scale.
ROUNDING = 1.0001


@settings(deadline=None)
@given(floats, floats, st.sampled_from([2, 4, 8, 16]), st.booleans())
@example(0.0, 0.0, 8, False)
@example(-1e-300, 1e-300, 8, False)
@example(3.0, 7.0, 8, False)
def test_every_value_of_the_range_is_within_half_a_step_and_zero_is_exact(a, b, bits, symmetric):
    low, high = sorted((a, b))
    quantizer = activation_quantizer(low, high, bits, symmetric)
    x = np.append(np.linspace(low, high, 257), 0.0)
    x = x[(x >= low) & (x <= high) | (x == 0)]
    eps = np.finfo(np.float32).eps * np.abs(x)
    assert np.all(np.abs(quantizer(x).astype(np.float64) - x) <= ROUNDING * quantizer.scale / 2 + eps)
    assert quantizer(np.zeros(1)) == 0.0
    assert quantizer.qmin <= quantizer.zero_point <= quantizer.qmax
    assert abs(quantizer.low - min(low, 0)) <= ROUNDING * quantizer.scale / 2 or symmetric or low == high == 0


def test_grid_of_8_bits_is_the_one_that_tflite_stores():
    quantizer = activation_quantizer(0.0, 6.0)
    assert quantizer.zero_point == -128 and quantizer.scale == np.float32(6 / 255)
    q = quantizer.quantize(np.array([-1.0, 0.0, 6.0, 99.0, np.inf]))
    assert q.tolist() == [-128, -128, 127, 127, 127]
    assert activation_quantizer(-2.0, 0.0).zero_point == 127
    assert activation_quantizer(-1.0, 5.0, 16, symmetric=True).scale == np.float32(5 / 32767)
    assert activation_quantizer(-1.0, 5.0, 16, symmetric=True).zero_point == 0


def test_a_range_of_positive_values_is_extended_to_zero():
    assert activation_quantizer(2.0, 3.0) == activation_quantizer(0.0, 3.0)
    assert activation_quantizer(0.0, 0.0) == activation_quantizer(0.0, 1.0)  # a tensor of zeros
    assert activation_quantizer(-3.0, -2.0) == activation_quantizer(-3.0, 0.0)


@pytest.mark.parametrize(
    "bits, signed, dtype",
    [
        (4, True, "int8"),
        (8, True, "int8"),
        (9, True, "int16"),
        (16, True, "int16"),
        (17, True, "int32"),
        (32, True, "int32"),
        (8, False, "uint8"),
    ],
)
def test_integers_have_the_smallest_type_and_stay_in_range(bits, signed, dtype):
    quantizer = Quantizer(0.5, 0, bits, signed=signed)
    q = quantizer.quantize(np.array([-1e12, 0.0, 1e12]))
    assert q.dtype == dtype
    assert q.tolist() == [quantizer.qmin, 0, quantizer.qmax]
    assert (quantizer.low, quantizer.high) == (quantizer.qmin / 2, quantizer.qmax / 2)


def test_ties_round_to_even():
    q = Quantizer(1.0, 0, 8).quantize(np.array([-1.5, -0.5, 0.5, 1.5, 2.5]))
    assert q.tolist() == [-2, 0, 0, 2, 2]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 16), st.sampled_from([None, 0, 2, -1]))
def test_integers_survive_the_way_to_reals_and_back(seed, bits, channel_axis):
    w = np.random.default_rng(seed).normal(size=(3, 4, 3))
    quantizer = weight_quantizer(w, bits, channel_axis)
    q = quantizer.quantize(w)
    np.testing.assert_array_equal(quantizer.quantize(quantizer.dequantize(q)), q)
    assert quantizer(w).dtype == np.float32


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from([None, 0, 1, -1]))
def test_weights_are_within_half_a_step_on_a_symmetric_grid(seed, bits, channel_axis):
    random = np.random.default_rng(seed)
    w = random.normal(size=(4, 5, 6)) * np.exp(3 * random.normal(size=6))
    quantizer = weight_quantizer(w, bits, channel_axis)
    q = quantizer.quantize(w)
    half = np.broadcast_to(quantizer._along(w)[0] / 2, w.shape)
    assert np.all(np.abs(quantizer(w) - w) <= ROUNDING * half)
    assert np.abs(q).max() == 2 ** (bits - 1) - 1 == np.abs(quantizer.quantize(-9 * w)).max()
    np.testing.assert_array_equal(weight_quantizer(-w, bits, channel_axis).quantize(-w), -q)


def test_one_step_per_channel_is_finer_than_one_in_all():
    w = np.random.default_rng(0).normal(size=(3, 3, 8, 4)) * [1, 0.1, 0.01, 0.001]

    def error(quantizer):
        return np.linalg.norm((quantizer(w) - w).reshape(-1, 4), axis=0)

    per_channel, per_tensor = error(weight_quantizer(w, 8, 3)), error(weight_quantizer(w, 8))
    assert np.all(per_channel[1:] < per_tensor[1:] / 4)


@pytest.mark.parametrize("dead", [0.0, 1e-42])
def test_a_dead_channel_gets_the_step_of_the_tensor(dead):
    w = np.ones((5, 3)) * [2.0, dead, 4.0]
    quantizer = weight_quantizer(w, 8, 1)
    assert quantizer.scale[1] == weight_quantizer(w, 8).scale
    assert np.all(quantizer.quantize(w)[:, 1] == 0)
    assert np.all(weight_quantizer(np.zeros((2, 3)), 8, 1).scale == np.float32(1 / 127))


def test_scales_are_what_a_file_holds_and_cannot_be_changed():
    quantizer = Quantizer([0.1, 0.2], 0, 8, channel_axis=0)
    assert quantizer.scale.dtype == np.float32 and quantizer.zero_point.tolist() == [0, 0]
    assert Quantizer(0.1, 0, 8).scale == float(np.float32(0.1)) != 0.1
    with pytest.raises(ValueError, match="read-only"):
        quantizer.scale[0] = 1.0
    assert quantizer == Quantizer(np.array([0.1, 0.2]), np.zeros(2, int), 8, channel_axis=0)
    assert quantizer != Quantizer([0.1, 0.3], 0, 8, channel_axis=0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0.0, 0, 8), "scale is 0.0.*positive"),
        ((np.nan, 0, 8), "scale is nan"),
        ((np.inf, 0, 8), "scale is inf"),
        ((1e-60, 0, 8), "scale is 1e-60"),
        ((1.0, 128, 8), r"zero_point is 128.*\[-128, 127\]"),
        ((1.0, -129, 8), "zero_point is -129"),
        ((1.0, 0.5, 8), "zero_point is 0.5.*integer"),
        ((1.0, 0, 1), "bits is 1.*2 to 32"),
        ((1.0, 0, 8.0), "bits is 8.0"),
        (([1.0, 2.0], 0, 8), "channel_axis=None"),
        ((1.0, 0, 8, 0), "vectors"),
        (([1.0, 2.0], [0, 0, 0], 8, 0), "one length"),
    ],
)
def test_a_quantizer_that_breaks_an_invariant_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Quantizer(*arguments)


@pytest.mark.parametrize("low, high", [(np.nan, 1.0), (0.0, np.inf), (1.0, 0.0), (-1e300, 1e300)])
def test_a_range_that_is_none_is_refused(low, high):
    with pytest.raises(ValueError, match="both ends must be finite"):
        activation_quantizer(low, high)


def test_values_that_no_integer_stands_for_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        Quantizer(1.0, 0, 8).quantize(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        weight_quantizer(np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match=r"shape \(2, 5\).*3 channels on axis 1"):
        Quantizer(np.ones(3), 0, 8, channel_axis=1).quantize(np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"shape \(2,\).*3 channels on axis 1"):
        Quantizer(np.ones(3), 0, 8, channel_axis=1).quantize(np.zeros(2))


def test_grids_of_many_ranges_are_those_of_each():
    lows, highs = np.array([-1.0, 0.0, 2.0]), np.array([3.0, 0.0, 5.0])
    scales, zero_points = nudged_grid(lows, highs, 4)
    for low, high, scale, zero_point in zip(lows, highs, scales, zero_points, strict=True):
        assert activation_quantizer(low, high, 4) == Quantizer(scale, zero_point, 4)
