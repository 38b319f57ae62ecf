"""descend: improves integers and scales after error feedback, and never makes the error larger."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.second_moment import ROUNDING_DAMPING as DAMPING
from tfdatafree.numerics.second_moment import damped, output_variance
from tfdatafree.quantization.descent import descend
from tfdatafree.quantization.feedback import round_with_feedback


def problem(inputs: int, outputs: int, groups: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(groups, 4 * inputs, inputs)) @ random.normal(size=(groups, inputs, inputs))
    covariance = (np.swapaxes(mixed, 1, 2) @ mixed / len(mixed[0])).astype(np.float32)
    return random.normal(size=(inputs, outputs * groups)).astype(np.float32), covariance


def grid_of(matrix: np.ndarray, bits: int, per_channel: bool = True, zero_point: int = 0) -> Quantizer:
    largest = np.abs(matrix).max(axis=0) if per_channel else np.abs(matrix).max()
    top = 2 ** (bits - 1) - 1
    return Quantizer(largest / (top - zero_point), zero_point, bits, channel_axis=1 if per_channel else None)


def error(values: np.ndarray, matrix: np.ndarray, covariance: np.ndarray) -> float:
    """The error that is minimised, summed over all outputs."""
    return float(output_variance(values - matrix, damped(covariance, DAMPING)).sum())


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(2, 90),
    outputs=st.integers(1, 6),
    groups=st.sampled_from([1, 1, 4]),
    bits=st.sampled_from([3, 4, 8]),
    per_channel=st.booleans(),
    zero_point=st.sampled_from([0, 0, 1]),
    seed=st.integers(0, 99),
)
def test_it_never_gets_worse_and_integers_stay_on_the_grid(
    inputs, outputs, groups, bits, per_channel, zero_point, seed
):
    matrix, covariance = problem(inputs, outputs, groups, seed)
    grid = grid_of(matrix, bits, per_channel, zero_point)
    begun = round_with_feedback(matrix, covariance, grid)
    before = error(grid.dequantize(begun), matrix, covariance)
    for rounds in (1, 3):
        found, on = descend(begun, matrix, covariance, grid, rounds=rounds)
        after = error(on.dequantize(found), matrix, covariance)
        assert after <= before * (1 + 1e-4)
        before = after
    assert found.dtype == grid.dtype and grid.qmin <= found.min() and found.max() <= grid.qmax
    assert dataclasses.replace(on, scale=grid.scale) == grid


@pytest.mark.parametrize("groups", [1, 5])
def test_four_bits_lose_a_tenth_less(groups):
    matrix, covariance = problem(9 if groups > 1 else 144, 32, groups)
    grid = grid_of(matrix, 4)
    begun = round_with_feedback(matrix, covariance, grid)
    found, on = descend(begun, matrix, covariance, grid)
    assert error(on.dequantize(found), matrix, covariance) < 0.9 * error(grid.dequantize(begun), matrix, covariance)


def test_at_its_end_no_single_integer_can_be_changed_for_the_better():
    matrix, covariance = problem(7, 2, 1)
    grid = grid_of(matrix, 3)
    found, on = descend(round_with_feedback(matrix, covariance, grid), matrix, covariance, grid, rounds=30)
    best = error(on.dequantize(found), matrix, covariance)
    for place in np.ndindex(*found.shape):
        for step in (-1, 1):
            other = found.copy()
            other[place] = np.clip(other[place] + step, grid.qmin, grid.qmax)
            assert error(on.dequantize(other), matrix, covariance) >= best * (1 - 1e-5)


def test_block_by_block_equals_one_block(monkeypatch):
    matrix, covariance = problem(70, 3, 1)
    grid = grid_of(matrix, 4)
    begun = round_with_feedback(matrix, covariance, grid)
    whole, on = descend(begun, matrix, covariance, grid)
    monkeypatch.setattr("tfdatafree.quantization.descent._BLOCK", 11)
    blocks, again = descend(begun, matrix, covariance, grid)
    assert np.mean(whole != blocks) < 0.01
    np.testing.assert_allclose(on.scale, again.scale, rtol=1e-2)


@pytest.mark.parametrize("groups", [1, 3])
def test_pruned_weights_stay_zero_and_a_channel_of_zeros_keeps_its_step(groups):
    matrix, covariance = problem(12, 2, groups)
    kept = np.random.default_rng(5).random(matrix.shape) < 0.5
    kept[:, 1] = False
    grid = grid_of(matrix, 4)
    begun = round_with_feedback(matrix, covariance, grid, mask=kept)
    found, on = descend(begun, matrix, covariance, grid, mask=kept)
    assert not found[~kept].any() and found[kept].any()
    assert on.scale[1] == grid.scale[1]


def test_taps_are_improved_as_kernels_of_their_own_but_share_their_steps():
    matrix, covariance = problem(6, 4, 1)
    two = np.concatenate([matrix, matrix[::-1]])
    grid = grid_of(two, 4)
    found, on = descend(round_with_feedback(two, covariance, grid), two, covariance, grid)
    again, _ = descend(found[6:], two[6:], covariance, on, rounds=1)
    assert on.scale.shape == (4,)
    assert error(on.dequantize(found[6:]), two[6:], covariance) < 1.05 * error(
        on.dequantize(again), two[6:], covariance
    )
