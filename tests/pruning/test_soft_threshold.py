import numpy as np
import pytest

from tfdatafree.numerics.second_moment import damped, output_variance, refit
from tfdatafree.pruning import soft_threshold
from tfdatafree.pruning.soft_threshold import train_to_count, train_with_strength


def problem(inputs=24, outputs=10, groups=1, seed=0):
    random = np.random.default_rng(seed)
    mix = random.normal(size=(groups, inputs, inputs // 3))
    covariance = (mix @ np.swapaxes(mix, 1, 2) / inputs * 3).astype(np.float32)
    return 0.1 * random.normal(size=(inputs, outputs)).astype(np.float32), covariance


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.slow
def test_exactly_the_given_number_of_weights_stays(part, groups):
    matrix, covariance = problem(groups=groups)
    kept = int(part * matrix.size)
    assert np.count_nonzero(train_to_count(matrix, covariance, kept)) == kept


def test_training_recovers_what_thresholds_lose():
    matrix, covariance = problem()
    kept = matrix.size // 3
    trained = train_to_count(matrix, covariance, kept)
    threshold = np.sort(np.abs(matrix).reshape(-1))[-kept]
    h = damped(covariance)
    loss = lambda values: output_variance(values - matrix, h).sum()  # noqa: E731
    assert loss(trained) < 0.9 * loss(matrix * (np.abs(matrix) >= threshold))
    assert loss(trained) < 0.5 * loss(np.sign(matrix) * np.maximum(np.abs(matrix) - threshold, 0))


def test_the_best_weights_stay_where_inputs_share_a_strong_component():
    """They lose less than the weights that contribute most. Adam's own steps, on unscaled weights, choose worse ones."""
    random = np.random.default_rng(3)
    matrix = random.normal(size=(120, 40)).astype(np.float32)
    matrix -= 0.9 * matrix.mean(axis=0)
    scale = np.exp(0.5 * random.normal(size=120)).astype(np.float32)
    matrix /= scale[:, None]
    covariance = ((np.eye(120) + 2) * scale[:, None] * scale)[None].astype(np.float32)
    kept = int(0.65 * matrix.size)
    h = damped(covariance)
    contribution = np.abs(matrix) * np.sqrt(np.diag(h[0]))[:, None]
    largest = contribution >= np.sort(contribution.reshape(-1))[-kept]
    loss = lambda mask: output_variance(refit(matrix, mask, covariance) - matrix, h).sum()  # noqa: E731
    assert loss(train_to_count(matrix, covariance, kept) != 0) < 0.985 * loss(largest)


def test_the_units_of_inputs_and_weights_do_not_matter():
    matrix, covariance = problem()
    kept = matrix.size // 2
    factors = np.exp(np.random.default_rng(4).normal(size=len(matrix))).astype(np.float32)
    ridge = np.trace(covariance[0]) / len(matrix) * np.eye(len(matrix), dtype=np.float32)
    plain = train_to_count(matrix, covariance + ridge, kept, damping=0)
    scaled = train_to_count(
        100 * matrix / factors[:, None], (covariance + ridge) * factors[:, None] * factors, kept, damping=0
    )
    assert np.mean((plain != 0) == (scaled != 0)) > 0.98
    same = (plain != 0) & (scaled != 0)
    np.testing.assert_allclose((scaled * factors[:, None])[same], 100 * plain[same], rtol=0.05, atol=0.2)


@pytest.mark.slow
def test_more_strength_gives_more_zeros():
    matrix, covariance = problem()
    zeros = [
        np.count_nonzero(train_with_strength(matrix, covariance, strength) == 0) for strength in (1e-4, 1e-1, 1.0, 1e2)
    ]
    assert zeros == sorted(set(zeros)) and zeros[-1] > 0.5 * matrix.size


def test_kernels_of_any_shape_share_one_compiled_step():
    before = soft_threshold._take_steps.experimental_get_tracing_count()
    for seed, (inputs, outputs, groups) in enumerate([(6, 4, 1), (9, 8, 2), (12, 3, 1)]):
        train_to_count(*problem(inputs, outputs, groups, seed), 10)
    assert soft_threshold._take_steps.experimental_get_tracing_count() - before <= 1


def test_layers_of_zeros_dead_inputs_and_strange_counts_do_no_harm():
    matrix, covariance = problem()
    assert not train_to_count(matrix, covariance, 0).any()
    np.testing.assert_array_equal(train_to_count(matrix, covariance, matrix.size), matrix)
    assert not train_to_count(np.zeros_like(matrix), covariance, 5).any()
    assert np.isfinite(train_to_count(matrix, np.zeros_like(covariance), 20)).all()
    sparse = np.where(np.arange(matrix.size).reshape(matrix.shape) % 3, 0, matrix)
    assert np.isfinite(train_to_count(sparse, covariance, sparse.size // 2)).all()
    assert np.isfinite(train_with_strength(matrix, covariance, 1e6)).all()
