import numpy as np
import pytest

from tfdatafree.numerics.affine import weight_quantizer
from tfdatafree.numerics.second_moment import ROUNDING_DAMPING as DAMPING
from tfdatafree.quantization.feedback import round_with_feedback


def correlated(random, size, groups=1):
    mix = random.normal(size=(groups, size, size))
    return mix @ np.swapaxes(mix, 1, 2) / size


def output_error(matrix, integers, quantizer, covariance):
    """tr(E^T H E) summed over groups: the variance that rounding adds to the outputs."""
    groups = len(covariance)
    error = (quantizer.dequantize(integers) - matrix).reshape(len(matrix), groups, -1)
    return sum(np.trace(error[:, g].T @ covariance[g] @ error[:, g]) for g in range(groups))


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(40, 12, 1), (150, 6, 1), (9, 24, 12), (18, 8, 2)])
@pytest.mark.parametrize("bits", [4, 8])
def test_feedback_lowers_the_output_error_of_correlated_inputs(inputs, outputs, groups, bits):
    random = np.random.default_rng(inputs)
    matrix = random.normal(size=(inputs, outputs)).astype(np.float32)
    covariance = correlated(random, inputs, groups)
    quantizer = weight_quantizer(matrix, bits, 1)
    nearest = output_error(matrix, quantizer.quantize(matrix), quantizer, covariance)
    fed_back = output_error(
        matrix, round_with_feedback(matrix, covariance, quantizer, damping=0.01), quantizer, covariance
    )
    assert fed_back < 0.9 * nearest


def test_feedback_is_plain_rounding_for_uncorrelated_inputs():
    random = np.random.default_rng(0)
    matrix = random.normal(size=(70, 5)).astype(np.float32)
    quantizer = weight_quantizer(matrix, 4, 1)
    covariance = np.diag(random.uniform(0.5, 2, size=70))[None]
    np.testing.assert_array_equal(round_with_feedback(matrix, covariance, quantizer), quantizer.quantize(matrix))


def test_block_by_block_equals_one_block():
    """The blocked recursion is an order of computation, not another result: compare with it written out row by row."""
    random = np.random.default_rng(3)
    matrix = random.normal(size=(130, 4)).astype(np.float64)
    covariance = correlated(random, 130)
    quantizer = weight_quantizer(matrix, 4, 1)
    damped = covariance[0] + DAMPING * np.diag(covariance[0]).mean() * np.eye(130)
    weights, expected = matrix.copy(), np.empty(matrix.shape)
    remaining = np.linalg.inv(damped)
    for row in range(130):
        expected[row] = np.clip(np.rint(weights[row] / quantizer.scale), quantizer.qmin, quantizer.qmax)
        error = (weights[row] - expected[row] * quantizer.scale) / remaining[0, 0]
        weights[row + 1 :] -= np.outer(remaining[1:, 0], error)
        # Inverse of the covariance without the input that is now fixed (Schur complement).
        remaining = remaining[1:, 1:] - np.outer(remaining[1:, 0], remaining[0, 1:]) / remaining[0, 0]
    np.testing.assert_array_equal(round_with_feedback(matrix, covariance, quantizer), expected)


def test_integers_stay_on_the_grid_and_dead_inputs_do_no_harm():
    random = np.random.default_rng(1)
    matrix = random.normal(size=(20, 3)).astype(np.float32)
    covariance = correlated(random, 20)
    covariance[:, 5] = covariance[:, :, 5] = 0
    for bits in (4, 8):
        quantizer = weight_quantizer(matrix, bits, None)
        integers = round_with_feedback(matrix, covariance, quantizer)
        assert np.abs(integers).max() <= quantizer.qmax
    assert np.isfinite(quantizer.dequantize(round_with_feedback(matrix, np.zeros((1, 20, 20)), quantizer))).all()


def test_taps_are_rounded_as_kernels_of_their_own():
    random = np.random.default_rng(4)
    matrix = random.normal(size=(3 * 20, 6)).astype(np.float32)
    covariance = correlated(random, 20)
    quantizer = weight_quantizer(matrix, 4, 1)
    together = round_with_feedback(matrix, covariance, quantizer)
    for tap in range(3):
        rows = slice(20 * tap, 20 * tap + 20)
        np.testing.assert_array_equal(together[rows], round_with_feedback(matrix[rows], covariance, quantizer))


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(40, 12, 1), (150, 6, 1), (9, 24, 12)])
def test_pruned_weights_stay_zero_and_the_others_make_good_what_that_costs(inputs, outputs, groups):
    random = np.random.default_rng(inputs)
    matrix = random.normal(size=(inputs, outputs)).astype(np.float32)
    kept = random.random(matrix.shape) < 0.5
    matrix[~kept] = 0
    covariance = correlated(random, inputs, groups)
    quantizer = weight_quantizer(matrix, 4, 1)
    masked = round_with_feedback(matrix, covariance, quantizer, damping=0.01, mask=kept)
    assert not masked[~kept].any()
    assert round_with_feedback(matrix, covariance, quantizer, damping=0.01)[~kept].any(), "feedback would fill them"
    nearest = output_error(matrix, quantizer.quantize(matrix), quantizer, covariance)
    assert output_error(matrix, masked, quantizer, covariance) < nearest
