import numpy as np
import pytest

from tfdatafree.numerics.second_moment import by_group, damped, from_groups, output_change, output_variance, refit
from tfdatafree.pruning.support import choose_support, energy_scores, with_class_means

CASES = [(40, 12, 1, 1), (18, 8, 2, 1), (9, 24, 12, 1), (20, 6, 1, 3)]
every_case = pytest.mark.parametrize(("inputs", "outputs", "groups", "taps"), CASES)


def problem(inputs, outputs, groups, taps):
    random = np.random.default_rng(inputs)
    mix = random.normal(size=(groups, inputs, max(2, inputs // 3)))
    covariance = (mix @ np.swapaxes(mix, 1, 2) / inputs).astype(np.float32)
    return random.normal(size=(taps * inputs, outputs)).astype(np.float32), covariance


def largest(matrix, kept):
    return np.abs(matrix) >= np.sort(np.abs(matrix).reshape(-1))[-kept]


def loss(values, matrix, covariance):
    return output_variance(values - matrix, damped(covariance)).sum()


@every_case
def test_exactly_the_given_number_of_weights_stays(inputs, outputs, groups, taps):
    matrix, covariance = problem(inputs, outputs, groups, taps)
    for kept in (0, 1, matrix.size // 3, matrix.size - 1, matrix.size):
        assert np.count_nonzero(choose_support(matrix, covariance, kept)) == kept
    assert np.count_nonzero(choose_support(np.zeros_like(matrix), covariance, 7)) == 7


@every_case
def test_refitted_weights_are_optimal_on_their_support(inputs, outputs, groups, taps):
    matrix, covariance = problem(inputs, outputs, groups, taps)
    mask = largest(matrix, matrix.size // 2)
    values = refit(matrix, mask, covariance)
    assert np.all(values[~mask] == 0)
    gradient = from_groups(damped(covariance) @ by_group(values - matrix, groups, inputs), matrix.shape)
    assert np.abs(gradient[mask]).max() < 1e-3 * np.abs(gradient[~mask]).max()
    assert loss(values, matrix, covariance) < 0.98 * loss(matrix * mask, matrix, covariance)


@pytest.mark.parametrize(("inputs", "outputs", "groups", "taps"), [case for case in CASES if case[0] > 9])
def test_the_chosen_support_loses_less_than_that_of_the_largest_weights(inputs, outputs, groups, taps):
    matrix, covariance = problem(inputs, outputs, groups, taps)
    kept = matrix.size // 3
    losses = [
        loss(refit(matrix, mask, covariance), matrix, covariance)
        for mask in (choose_support(matrix, covariance, kept, damping=1.0), largest(matrix, kept))
    ]
    assert losses[0] < losses[1]


def test_with_inputs_of_equal_variance_the_largest_weights_stay_as_they_are():
    matrix, _ = problem(40, 12, 1, 1)
    covariance = np.eye(40, dtype=np.float32)[None]
    best = largest(matrix, 200)
    np.testing.assert_allclose(refit(matrix, best, covariance), matrix * best, rtol=1e-5)
    # The problem is not convex: a few weights near the threshold may change places.
    mask = choose_support(matrix, covariance, 200)
    assert np.count_nonzero(mask != best) <= 0.05 * matrix.size
    assert np.square(matrix[~mask]).sum() < 1.01 * np.square(matrix[~best]).sum()


@every_case
def test_energies_of_independent_inputs_sum_to_one(inputs, outputs, groups, taps):
    matrix, covariance = problem(inputs, outputs, groups, taps)
    diagonal = covariance * np.eye(inputs)
    assert energy_scores(matrix, diagonal).sum() == pytest.approx(1, rel=1e-4)


def test_output_variance_is_that_of_the_outputs():
    random = np.random.default_rng(0)
    matrix, covariance = problem(18, 8, 2, 1)
    factors = np.linalg.cholesky(covariance.astype(np.float64) + 1e-6 * np.eye(18))
    x = np.einsum("gij,ngj->ngi", factors, random.normal(size=(40000, 2, 18)))
    y = np.einsum("ngi,gio->ngo", x, by_group(matrix, 2, 18)).reshape(len(x), -1)
    np.testing.assert_allclose(y.var(axis=0), output_variance(matrix, covariance), rtol=0.05)


@pytest.mark.filterwarnings("error")
def test_the_unit_of_inputs_and_weights_makes_no_difference():
    """Outputs of a layer may be tiny, and some of them much smaller than others."""
    matrix, covariance = problem(40, 12, 1, 1)
    mask = largest(matrix, matrix.size // 2)
    matrix[:, ::2] *= 1e-8
    values = refit(matrix, mask, covariance)
    for of_weights, of_inputs in ((1e-12, 1e-5), (1e-3, 1e-5), (1e4, 1e4)):
        small = refit(matrix * np.float32(of_weights), mask, covariance * np.float32(of_inputs) ** 2)
        scale = np.abs(values).max(axis=0)
        np.testing.assert_allclose(small / np.float32(of_weights) / scale, values / scale, atol=1e-3)


def test_layers_of_zeros_and_dead_inputs_do_no_harm():
    matrix, covariance = problem(20, 6, 1, 3)
    covariance[:, 3] = covariance[:, :, 3] = 0
    for h in (covariance, np.zeros_like(covariance)):
        mask = choose_support(matrix, h, 30)
        assert np.isfinite(refit(matrix, mask, h)).all() and mask.sum() == 30
    assert np.isfinite(energy_scores(np.zeros_like(matrix), covariance)).all()


def test_half_of_a_classifiers_covariance_lies_where_its_classes_differ():
    random = np.random.default_rng(3)
    matrix, covariance = problem(20, 5, 1, 1)
    result = with_class_means(covariance, matrix + random.normal(size=(20, 1)).astype(np.float32))
    between = 2 * result[0] - covariance[0]
    # What all classes have in common tells them apart by nothing: the rank is one less than their number.
    spectrum = np.linalg.eigvalsh(between)
    assert np.count_nonzero(spectrum > 1e-4 * spectrum[-1]) == 4
    differences = matrix[:, 1:] - matrix[:, :1]
    inside = differences @ np.linalg.lstsq(differences, between, rcond=None)[0]
    np.testing.assert_allclose(inside, between, atol=1e-3 * np.abs(between).max())
    np.testing.assert_allclose(np.trace(result[0]), np.trace(covariance[0]), rtol=1e-4)
    same = np.ones_like(matrix)
    np.testing.assert_array_equal(with_class_means(covariance, same), covariance)


def test_the_change_of_a_classifier_is_that_of_its_outputs_less_their_common_shift():
    matrix, covariance = problem(40, 12, 1, 1)
    values = matrix * largest(matrix, matrix.size // 2) + 3.0 * matrix[:, :1]  # the shift is common to all outputs
    x = np.random.default_rng(0).multivariate_normal(np.zeros(40), covariance[0], size=20_000)
    before, after = x @ matrix, x @ values
    before, after = (array - array.mean(axis=1, keepdims=True) for array in (before, after))
    expected = np.square(after - before).sum() / np.square(before).sum()
    assert output_change(values=values, matrix=matrix, covariance=covariance) == pytest.approx(expected, rel=0.05)
