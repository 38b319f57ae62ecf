import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdatafree.numerics.metrics import agreement, output_discrepancy, relative_error, sqnr_db

seeds = st.integers(0, 2**32 - 1)


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(6, 2, 5)), random.normal(size=(6, 2, 5))


@settings(deadline=None)
@given(seeds, st.floats(0.001, 1000))
def test_noise_a_tenth_as_large_has_20_db_more(seed, size):
    x, noise = pair(seed)
    assert sqnr_db(x, x + noise / 10) == pytest.approx(sqnr_db(x, x + noise) + 20)
    assert sqnr_db(size * x, size * (x + noise)) == pytest.approx(sqnr_db(x, x + noise))
    assert sqnr_db(x, x + noise) == pytest.approx(-20 * np.log10(relative_error(x + noise, x)))


def test_equal_and_zero_signals():
    x, zero = np.ones(3), np.zeros(3)
    assert sqnr_db(x, x) == sqnr_db(zero, zero) == np.inf
    assert sqnr_db(zero, x) == -np.inf
    assert relative_error(x, x) == relative_error(zero, zero) == 0
    assert relative_error(x, zero) == np.inf
    assert relative_error(zero, x) == 1


def test_agreement_counts_equal_argmaxes_of_the_last_axis():
    a = np.array([[[1, 2], [3, 4]], [[5, 4], [9, 8]]])
    b = np.array([[[0, 9], [9, 0]], [[1, 0], [1, 0]]])
    assert agreement(a, b) == 0.75
    assert agreement(a, -a) == 0


@settings(deadline=None)
@given(seeds, st.floats(0.001, 1000))
def test_output_discrepancy_sees_directions_only(seed, factor):
    a, b = pair(seed)
    factors = factor * np.arange(1, 7).reshape(6, 1, 1)
    assert output_discrepancy(a * factors, b) == pytest.approx(output_discrepancy(a, b))
    assert output_discrepancy(a, a * factors) == pytest.approx(0, abs=1e-12)
    assert output_discrepancy(a, -a * factors) == pytest.approx(2)
    assert 0 < output_discrepancy(a, b) < 2


def test_output_discrepancy_is_the_mean_over_samples():
    # Angles of 90 and 0 degrees, then a zero against something and a zero against a zero.
    a = np.array([[1.0, 0], [0, 2], [0, 0], [0, 0]])
    b = np.array([[0.0, 3], [0, 1], [5, 5], [0, 0]])
    assert output_discrepancy(a, b) == pytest.approx((np.sqrt(2) + 0 + 1 + 0) / 4)


@pytest.mark.parametrize("metric", [sqnr_db, relative_error, agreement, output_discrepancy])
def test_unequal_shapes_are_refused(metric):
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3,\)"):
        metric(np.zeros((2, 3)), np.zeros(3))
