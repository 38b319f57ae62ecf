import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdatafree.numerics.moments import activation_moments, moments_by_quadrature

MEANS = np.array([-4.0, -0.5, 0.0, 0.3, 2.0, 5.5, 9.0])
SDS = np.array([1.0, 0.7, 2.0, 0.05, 3.0, 1.0, 0.5])


def keras_relu(x, max_value=np.inf, negative_slope=0.0, threshold=0.0):
    return np.where(x >= max_value, max_value, np.where(x >= threshold, x, negative_slope * (x - threshold)))


def dense_moments(function, mean, sd):
    """A plain sum over midpoints; jumps are met within their spacing, 1e-5 sd."""
    edges = np.linspace(-9, 9, 1_800_001)
    z = (edges[:-1] + edges[1:]) / 2
    p = np.exp(-(z**2) / 2)
    p /= p.sum()
    y = function(mean + sd * z)
    first = p @ y
    return first, p @ (y - first) ** 2


@pytest.mark.parametrize(
    "name, options",
    [
        ("linear", {}),
        ("relu", {}),
        ("relu6", {}),
        ("relu", {"max_value": 1.0}),
        ("leaky_relu", {"negative_slope": 0.3}),
        ("relu", {"max_value": 4.0, "negative_slope": 0.1, "threshold": 1.0}),
        ("relu", {"threshold": -1.0}),
        ("relu", {"max_value": -0.5, "threshold": -1.0, "negative_slope": 2.0}),
    ],
)
def test_closed_form_is_the_integral(name, options):
    effective = {"max_value": 6.0, **options} if name == "relu6" else options
    first, second = activation_moments(name, MEANS, SDS, **options)
    for i, (mean, sd) in enumerate(zip(MEANS, SDS, strict=True)):
        function = (lambda x: x) if name == "linear" else (lambda x: keras_relu(x, **effective))
        expected = dense_moments(function, mean, sd)
        np.testing.assert_allclose((first[i], second[i]), expected, rtol=1e-5, atol=1e-5 * sd)


@settings(deadline=None)
@given(st.floats(-5, 5), st.floats(0.01, 10))
def test_closed_form_agrees_with_samples(mean, sd):
    samples = keras_relu(mean + sd * np.random.default_rng(0).standard_normal(200_000), 6.0)
    first, second = activation_moments("relu6", mean, sd)
    assert abs(first - samples.mean()) <= 6 * np.sqrt(second / samples.size) + 1e-4 * sd
    assert abs(second - samples.var()) <= 0.05 * second + 1e-3 * sd**2


@pytest.mark.parametrize("name", ["linear", "relu", "relu6", "leaky_relu"])
def test_a_constant_channel_is_exact(name):
    x = np.array([-2.0, 0.0, 0.1, 6.0, 7.5])
    first, second = activation_moments(name, x, 0.0)
    expected = {
        "linear": x,
        "relu": keras_relu(x),
        "relu6": keras_relu(x, 6.0),
        "leaky_relu": keras_relu(x, negative_slope=0.2),
    }[name]
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, 0)
    np.testing.assert_array_equal(moments_by_quadrature(np.tanh, x, 0.0), (np.tanh(x), 0 * x))


def test_a_channel_that_is_nearly_always_off_keeps_its_digits():
    # E max(Z - 10, 0) = phi(10) / 10^2 (1 - 3 / 10^2 + 15 / 10^4 - ...), an asymptotic series; likewise the square.
    first, second = activation_moments("relu", np.array([-10.0, -1e9]), np.array([1.0, 1e-3]))
    density = np.exp(-50) / np.sqrt(2 * np.pi)
    assert first[0] == pytest.approx(density / 100 * (1 - 3e-2 + 15e-4 - 105e-6 + 945e-8), rel=1e-5, abs=0)
    assert second[0] == pytest.approx(2 * density / 1000 * (1 - 6e-2 + 45e-4 - 420e-6 + 4725e-8), rel=1e-4, abs=0)
    assert first[1] == second[1] == 0


def test_a_far_mean_does_not_swallow_the_variance():
    first, second = activation_moments("relu", 1e7, 1.0)
    assert (first, second) == (1e7, pytest.approx(1.0, rel=1e-6))


@pytest.mark.parametrize("shift", np.linspace(0, 0.004, 5))
def test_quadrature_meets_its_bound_at_kinks(shift):
    mean, sd = MEANS + shift, SDS
    exact = activation_moments("relu6", mean, sd)
    found = moments_by_quadrature(lambda x: np.clip(x, 0, 6), mean, sd)
    assert np.all(np.abs(found[0] - exact[0]) <= 1e-6 * sd)
    assert np.all(np.abs(found[1] - exact[1]) <= 1e-5 * sd**2)
    coarse = moments_by_quadrature(lambda x: np.clip(x, 0, 6), mean, sd, points=101)
    assert np.any(np.abs(coarse[0] - exact[0]) > 1e-6 * sd)


def test_quadrature_of_polynomials_is_exact():
    first, second = moments_by_quadrature(np.square, MEANS, SDS)
    np.testing.assert_allclose(first, MEANS**2 + SDS**2, rtol=1e-9)
    np.testing.assert_allclose(second, 2 * SDS**4 + 4 * MEANS**2 * SDS**2, rtol=1e-9)


def test_shapes_broadcast_and_blocks_do_not_show():
    mean = np.random.default_rng(0).normal(size=(3, 400))
    sd = np.ones(400)
    for first, second in (activation_moments("relu", mean, sd), moments_by_quadrature(np.tanh, mean, sd)):
        assert first.shape == second.shape == (3, 400)
    alone = moments_by_quadrature(np.tanh, mean[2, 399], 1.0)
    np.testing.assert_allclose((first[2, 399], second[2, 399]), alone, rtol=1e-12)


def test_slopes_may_differ_between_channels():
    slopes = np.array([0.0, 0.5, 1.0])
    first, second = activation_moments("leaky_relu", np.zeros(3), 1.0, negative_slope=slopes)
    for i, slope in enumerate(slopes):
        assert (first[i], second[i]) == activation_moments("leaky_relu", 0.0, 1.0, negative_slope=slope)
    assert (first[2], second[2]) == (0, pytest.approx(1))


def test_what_has_no_moments_is_refused():
    with pytest.raises(ValueError, match="'swish'.*moments_by_quadrature"):
        activation_moments("swish", 0.0, 1.0)
    with pytest.raises(ValueError, match="sd at least 0"):
        activation_moments("relu", 0.0, -1.0)
    with pytest.raises(ValueError, match="finite"):
        moments_by_quadrature(np.tanh, np.nan, 1.0)
    with pytest.raises(ValueError, match="max_value is -1.0 and threshold 0.0"):
        activation_moments("relu", 0.0, 1.0, max_value=-1.0)
