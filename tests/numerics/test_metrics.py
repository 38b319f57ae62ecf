import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdatafree.numerics.metrics import (
    agreement,
    output_discrepancy,
    relative_error,
    response_discrepancy,
    sqnr_db,
)

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
    # Angles of 90 and 0 degrees, then a zero and something else, then two zeros.
    a = np.array([[1.0, 0], [0, 2], [0, 0], [0, 0]])
    b = np.array([[0.0, 3], [0, 1], [5, 5], [0, 0]])
    assert output_discrepancy(a, b) == pytest.approx((np.sqrt(2) + 0 + 1 + 0) / 4)


@settings(deadline=None)
@given(seeds, st.floats(0.001, 1000))
def test_response_discrepancy_is_blind_to_an_offset_of_all_samples_a_constant_of_each_and_a_factor(seed, factor):
    a, b = pair(seed)
    random = np.random.default_rng(seed + 1)
    offset = random.normal(size=a.shape[1:]) + random.normal(size=(6, 2, 1))
    wanted = response_discrepancy(a, b)
    assert 0 < wanted < 2 and response_discrepancy(b, a) == pytest.approx(wanted)
    assert response_discrepancy(a + offset, b) == pytest.approx(wanted)
    assert response_discrepancy(a, factor * b + offset) == pytest.approx(wanted)
    assert response_discrepancy(a, factor * a + offset) == pytest.approx(0, abs=1e-6)
    assert response_discrepancy(a, offset - factor * a) == pytest.approx(2)
    assert response_discrepancy(a, a + np.random.default_rng(seed + 2).normal(size=a.shape)) > 0.1


def test_response_discrepancy_is_output_discrepancy_around_the_mean():
    a, b = pair(3)
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    assert response_discrepancy(a, b) == pytest.approx(output_discrepancy(a - a.mean(axis=0), b - b.mean(axis=0)))
    one, other = np.array([[1.0], [2.0], [6.0]]), np.array([[6.0], [1.0], [5.0]])
    assert response_discrepancy(one, other) == pytest.approx(2 / 3), (
        "for a single value no mean over classes is subtracted"
    )
    a, b = pair(3)
    assert output_discrepancy(a, a + 5) > 0.5 > response_discrepancy(a, a + 5)


@settings(deadline=None)
@given(seeds, st.floats(0.01, 3))
def test_response_discrepancy_bounds_the_margins_of_what_is_decided_otherwise(seed, noise):
    a, b = (array.reshape(-1, 5) for array in pair(seed))
    b = 3 * (a + noise * b) + np.arange(5)
    a -= a.mean(axis=1, keepdims=True)
    responses, others = (array - array.mean(axis=0) for array in (a, b - b.mean(axis=1, keepdims=True)))
    scale = np.maximum((responses * others).sum(axis=1) / (others**2).sum(axis=1), 0)
    corrected = a.mean(axis=0) + scale[:, None] * others
    turned = corrected.argmax(axis=1) != a.argmax(axis=1)
    ordered = np.sort(a, axis=1)
    relative = (ordered[:, -1] - ordered[:, -2]) / np.linalg.norm(responses, axis=1)
    assert relative[turned].sum() <= (1 + 1e-9) * np.sqrt(2) * len(a) * response_discrepancy(a, b)


def test_the_bound_on_the_margins_is_reached():
    # Both samples turn by a small angle, just up to a change of the decision.
    angle, apart, away = 1e-3, np.array([1.0, -1, 0]) / np.sqrt(2), np.array([1.0, 1, -2]) / np.sqrt(6)
    signs, common = np.array([[1.0], [-1]]), np.array([10.0, 10, 0])  # it is between the first two
    a = signs * (np.cos(angle) * away + np.sin(angle) * apart) + common
    b = signs * away + common
    margins = np.abs(a[:, 0] - a[:, 1])  # responses have norm 1
    assert margins.sum() == pytest.approx(np.sqrt(2) * 2 * response_discrepancy(a, b), rel=1e-3)


def test_outputs_that_do_not_depend_on_the_input_have_no_response():
    same, other = np.tile([0.1, 0.7, 0.3], (7, 1)), np.eye(7, 3)  # the mean of 7 equal numbers is rounded
    assert response_discrepancy(same, 7 * same) == response_discrepancy(same, same + [0.3, 0.7, 0.1]) == 0
    assert response_discrepancy(same, other) == response_discrepancy(other, same) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"\(1, 3\); responses are differences between at least 2 samples"):
        response_discrepancy(np.zeros((1, 3)), np.zeros((1, 3)))


@pytest.mark.parametrize("metric", [sqnr_db, relative_error, agreement, output_discrepancy, response_discrepancy])
def test_unequal_shapes_are_refused(metric):
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3,\)"):
        metric(np.zeros((2, 3)), np.zeros(3))
