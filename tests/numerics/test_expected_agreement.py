"""Tests of the estimate of real agreement. Its coefficients are fitted, so that only its laws are tested here."""

import numpy as np
import pytest

from tfdatafree.numerics.expected_agreement import counted_agreement, expected_agreement, features

RANDOM = np.random.default_rng(0)
SCORES = 3 * RANDOM.normal(size=(128, 10))
NOISE = RANDOM.normal(size=(128, 10))


def test_equal_scores_keep_every_decision():
    found = expected_agreement(SCORES, SCORES.copy())
    assert (found.share, found.low, found.high, found.inputs) == (1, 1, 1, 128)


def test_more_noise_leaves_less():
    shares = [expected_agreement(SCORES, SCORES + size * NOISE).share for size in (0.01, 0.1, 1.0, 3.0, 30.0)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.98 > 0.5 > shares[-1]


def test_what_a_softmax_ignores_changes_nothing():
    result = SCORES + 0.5 * NOISE
    moved = result + RANDOM.normal(size=(128, 1))
    np.testing.assert_allclose(features(SCORES + 7, moved), features(SCORES, result), rtol=1e-9)


def test_the_unit_of_scores_does_not_count():
    np.testing.assert_allclose(features(9 * SCORES, 9 * (SCORES + NOISE)), features(SCORES, SCORES + NOISE), rtol=1e-9)


def test_scores_of_unlikely_classes_may_be_clipped():
    clipped = np.maximum(SCORES, SCORES.max(axis=1, keepdims=True) - 6)
    assert expected_agreement(SCORES, clipped).share > 0.97


@pytest.mark.parametrize("result", [np.zeros((128, 10)), np.full((128, 10), np.nan), np.tile(SCORES[:1], (128, 1))])
def test_a_network_that_says_the_same_for_every_input_is_broken(result):
    assert expected_agreement(SCORES, result).share < 0.4


def test_the_interval_holds_the_share():
    for size in (0.1, 1.0, 10.0):
        found = expected_agreement(SCORES, SCORES + size * NOISE)
        assert 0 <= found.low < found.share < found.high <= 1


def test_what_was_counted_is_told_as_it_is():
    moved = SCORES.copy()
    moved[:32] = np.roll(SCORES[:32], 1, axis=1)
    found = counted_agreement(SCORES, moved)
    assert found.measured and found.share == 0.75 and "75.0 % on 128 given inputs" in str(found)
    # Wilson's interval for 96 of 128 at z = 1.645.
    assert (found.low, found.high) == pytest.approx((0.682, 0.808), abs=1e-3)
