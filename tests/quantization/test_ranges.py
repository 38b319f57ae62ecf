import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdatafree.numerics.affine import activation_quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.quantization import ranges
from tfdatafree.quantization.ranges import (
    aciq,
    extreme_value,
    k_sigma,
    min_max,
    percentile,
    range_of_levels,
    search_range,
)

# Grids are compared in float32: equal errors may differ by this much.
ROUNDING = 1 + 1e-3


def error(x: np.ndarray, range_: Range, bits: int, symmetric: bool = False) -> float:
    return float(np.linalg.norm(activation_quantizer(range_.low, range_.high, bits, symmetric)(x) - x))


def sample(seed: int, kind: str, size: int = 500) -> np.ndarray:
    random = np.random.default_rng(seed)
    x = random.laplace(size=size) if kind == "heavy" else random.normal(random.normal(), 1, size)
    return np.maximum(x, 0) if kind == "relu" else -np.maximum(x, 0) if kind == "negative" else x


kinds = st.sampled_from(["heavy", "normal", "relu", "negative"])


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**32 - 1), kinds, st.sampled_from([3, 4, 8, 16]), st.booleans(), st.sampled_from([1e-20, 1, 1e20])
)
@pytest.mark.slow
def test_search_is_never_worse_than_min_max(seed, kind, bits, symmetric, size):
    x = size * sample(seed, kind)
    found, widest = search_range(x, bits, symmetric=symmetric), min_max(x)
    assert error(x, found, bits, symmetric) <= ROUNDING * error(x, widest, bits, symmetric)
    if not symmetric:
        assert widest.low <= found.low <= 0 <= found.high <= widest.high


def test_search_clips_heavy_tails_at_4_bits():
    for seed in range(3):
        x = sample(seed, "heavy", 2000)
        assert error(x, search_range(x, 4), 4) < error(x, min_max(x), 4) / 1.2


@pytest.mark.parametrize("kind", ["heavy", "normal", "relu", "negative"])
@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_search_finds_the_best_of_the_grid(kind, bits, symmetric):
    x, steps = sample(7, kind, 200), 12
    fractions = np.arange(1, steps + 1) / steps
    low, high = min(x.min(), 0), max(x.max(), 0)
    pairs = [(i * low, j * high) for j in fractions for i in fractions]
    if symmetric:
        pairs = [(-i * np.abs(x).max(), i * np.abs(x).max()) for i in fractions]
    errors = [error(x, Range(*pair), bits, symmetric) for pair in pairs]
    found = search_range(x, bits, steps, symmetric=symmetric)
    assert np.any(np.isclose((found.low, found.high), pairs).all(axis=1))
    assert error(x, found, bits, symmetric) <= ROUNDING * min(errors)
    assert sorted(errors)[len(errors) // 4] > 1.01 * min(errors)  # the choice matters


def test_of_equal_ranges_the_narrowest_wins():
    # At 2 bits the integers are 0..3: with every range the grid 0, 1, 2, 3 times h / 3, so only h = 3 is exact.
    assert search_range(np.array([0.0, 1.0, 2.0, 3.0]), 2, 10) == Range(0, 3)
    # With -1 and 1, a range and its mirror image are equally good.
    x = np.array([-1.0, 1.0])
    assert error(x, Range(-1, 0.8), 2) == error(x, Range(-0.8, 1), 2)
    assert search_range(x, 2, 5) == Range(-1, 0.8)


@pytest.mark.slow
def test_a_large_tensor_is_judged_by_its_whole_distribution():
    random = np.random.default_rng(3)
    x = np.append(random.normal(size=300_000), [40.0, -30.0]).reshape(2, -1)
    for bits, times_better in ((4, 4), (8, 1.1)):
        found = search_range(x, bits)
        best = min(error(x, Range(-k, k), bits) for k in np.linspace(2, 40, 39))
        assert error(x, found, bits) < 1.1 * best < error(x, min_max(x), bits) / times_better
    # A random sample of 2048 values would miss this tail, which must not be clipped.
    x = np.append(random.uniform(-1, 1, 100_000), np.full(30, 100.0))
    assert search_range(x, 8).high > 90


def test_same_samples_same_range_and_one_trace():
    x = np.random.default_rng(0).normal(size=200_000)
    assert search_range(x) == search_range(x.copy()) == search_range(x, seed=0)
    search_range(x[:10], 4, 7)
    search_range(np.maximum(x, 0), 16, symmetric=True)
    assert ranges._squared_errors.experimental_get_tracing_count() == 1


def test_samples_are_left_alone():
    x = np.random.default_rng(0).normal(size=5000)
    before = x.copy()
    search_range(x), min_max(x), percentile(x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("method", [min_max, percentile, search_range])
def test_ranges_contain_zero(method):
    assert method(np.array([2.0, 3.0])).low == 0
    assert method(np.array([-3.0, -2.0])).high == 0
    assert method(np.zeros((2, 3))) == Range(0, 0)
    assert min_max(np.array([[-1, 5], [2, 3]], np.int32)) == Range(-1, 5)


def test_percentile_leaves_out_both_tails():
    x = np.arange(-100, 101.0)
    assert percentile(x, 100) == min_max(x)
    assert percentile(x, 95) == Range(-90, 90)


def test_k_sigma_goes_through_the_activation():
    mean, sd = np.array([0.0, 1.0, -2.0]), np.array([1.0, 0.5, 0.1])
    assert k_sigma(mean, sd) == Range(-6, 6)
    assert k_sigma(mean, sd, k=1) == Range(-2.1, 1.5)
    assert k_sigma(mean, sd, activation=lambda x: np.clip(x, 0, 4)) == Range(0, 4)
    swish = k_sigma(mean, sd, k=30, activation=lambda x: x / (1 + np.exp(-x)))
    assert swish.low == pytest.approx(-0.27846, abs=1e-3)  # its minimum, between the ends


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Range(1, 0), r"\[1.0, 0.0\].*order"),
        (lambda: Range(0, np.inf), "finite"),
        (lambda: min_max(np.array([])), "no samples"),
        (lambda: search_range(np.array([1, np.nan])), "NaN or infinity"),
        (lambda: percentile(np.ones(3), 40), "percent is 40"),
        (lambda: search_range(np.ones(3), steps=0), "steps is 0"),
        (lambda: search_range(np.ones(3), bits=1), "bits is 1"),
        (lambda: k_sigma(np.ones(2), -np.ones(2)), "sd -1"),
        (lambda: k_sigma(np.ones(2), np.ones(2), k=0), "k is 0"),
    ],
)
def test_what_is_no_range_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Analytic clipping ------------------------------------------------------------------------------------------------------


def test_analytic_clipping_knows_the_published_optima():
    """Banner et al. 2019: 2.83, 3.89, 5.03 b for Laplace's density at 2, 3, 4 bits; 1.71, 2.15, 2.55 sigma for the normal."""
    random = np.random.default_rng(0)
    laplace, normal = random.laplace(size=400_000), random.normal(size=400_000)
    for bits, wide, narrow in ((2, 2.83, 1.71), (3, 3.89, 2.15), (4, 5.03, 2.55)):
        np.testing.assert_allclose([aciq(laplace, bits).high, -aciq(laplace, bits).low], wide, rtol=0.02)
        np.testing.assert_allclose([aciq(normal, bits).high, -aciq(normal, bits).low], narrow, rtol=0.02)


@pytest.mark.parametrize("draw", ["laplace", "normal"])
@pytest.mark.parametrize("one_sided", [False, True])
def test_analytic_clipping_is_about_the_best_range(draw, one_sided):
    x = getattr(np.random.default_rng(1), draw)(size=50_000)
    x = np.maximum(x, 0) if one_sided else x

    def error(range_):
        grid = activation_quantizer(range_.low, range_.high, 4)
        return np.mean(np.square(grid(x) - x))

    assert error(aciq(x, 4)) < 1.1 * error(search_range(x, 4)) < 0.8 * error(min_max(x))
    assert (aciq(x, 4).low == 0) == one_sided


def test_analytic_clipping_stays_within_what_was_seen():
    assert aciq(np.array([0.0, 0.0, 2.0]), 8) == Range(0, 2)
    assert aciq(np.zeros(5), 4) == Range(0, 0)
    x = np.random.default_rng(2).uniform(3, 4, 1000)
    assert aciq(x, 8).low == 0 and aciq(x, 8).high <= x.max()
    with pytest.raises(ValueError, match="NaN or infinity"):
        aciq(np.array([np.nan]), 8)


@pytest.mark.parametrize("ends", [(-1, 1), (0, 1), (0, 255), (-2.12, 2.64), (-128, 128), (-123.68, 151.061), (0.5, 2)])
def test_the_levels_of_an_image_are_never_worse_met_than_by_the_plain_grid(ends):
    levels = np.linspace(*ends, 256)
    chosen = range_of_levels(*ends)
    errors = [
        np.mean(np.square(q(levels) - levels))
        for q in (activation_quantizer(*ends), activation_quantizer(chosen.low, chosen.high))
    ]
    assert errors[1] <= errors[0] * (1 + 1e-6)
    assert max(-chosen.low, chosen.high) <= max(-min(ends[0], 0), ends[1]) * 1.01


def test_no_level_of_a_symmetric_image_lies_halfway_between_two_steps():
    levels = np.linspace(-1, 1, 256)
    plain, chosen = activation_quantizer(-1, 1), range_of_levels(-1, 1)
    chosen = activation_quantizer(chosen.low, chosen.high)
    off = [np.abs(np.abs(levels / q.scale - np.floor(levels / q.scale)) - 0.5).min() for q in (plain, chosen)]
    assert off[0] < 1e-5 < 1e-3 < off[1]
    rms = [np.sqrt(np.mean(np.square(q(levels) - levels))) / q.scale for q in (plain, chosen)]
    assert rms[1] < 0.6 * rms[0]


# Extreme values ---------------------------------------------------------------------------------------------------------


def test_extreme_values_hold_what_many_inputs_need():
    """From the extremes of 32 inputs, the range that about one in 256 inputs leaves."""
    random = np.random.default_rng(0)
    ratios = []
    for trial in range(60):
        values = random.exponential(size=(256, 500)) if trial % 2 else random.normal(size=(256, 500))
        found = extreme_value(values[:32].min(axis=1), values[:32].max(axis=1))
        ratios.append(found.high / values.max())
        assert found.low <= 0 <= found.high
    assert 0.9 < np.mean(ratios) < 1.15 and min(ratios) > 0.5


@given(st.integers(0, 2**16), st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_extreme_values_scale_with_the_values(seed, scale):
    random = np.random.default_rng(seed)
    lows, highs = np.sort(random.normal(size=(2, 12)), axis=0)
    once, scaled = extreme_value(lows, highs), extreme_value(scale * lows, scale * highs)
    assert (scaled.low, scaled.high) == pytest.approx((scale * once.low, scale * once.high), rel=1e-5)


def test_extreme_values_of_what_does_not_vary_are_its_extremes():
    assert extreme_value(np.zeros(8), np.full(8, 6.0)) == Range(0, 6)
    assert extreme_value(np.array([-2.0]), np.array([3.0])) == min_max(np.array([-2.0, 3.0]))
    assert extreme_value(np.full(4, -3.0), np.full(4, -1.0)) == Range(-3, 0), "an end that no input has stays 0"
