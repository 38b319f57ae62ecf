import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdatafree.inputs.procedural import procedural_images


def spectrum_slope(image: np.ndarray) -> float:
    """Exponent of the amplitude spectrum of a square image, (H, W, C), fitted between 4 cycles and half of Nyquist."""
    size = len(image)
    window = np.hanning(size)[:, None] * np.hanning(size)
    grey = image.mean(-1)
    amplitude = np.abs(np.fft.fft2((grey - grey.mean()) * window))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size, 1 / size), np.fft.fftfreq(size, 1 / size)))
    rings = np.geomspace(4, size / 4, 8)
    mean = [amplitude[(frequency >= a) & (frequency < b)].mean() for a, b in zip(rings[:-1], rings[1:], strict=True)]
    return np.polyfit(np.log(np.sqrt(rings[:-1] * rings[1:])), np.log(mean), 1)[0]


def test_amplitudes_fall_as_one_over_the_frequency():
    images = procedural_images(16, (128, 128, 3))
    slopes = np.array([spectrum_slope(image) for image in images])
    assert np.all((slopes > -2.0) & (slopes < -0.6)), slopes
    assert abs(slopes[0::2].mean() + 1.1) < 0.2 and abs(slopes[1::2].mean() + 1.3) < 0.3
    noise = np.random.default_rng(0).random((128, 128, 3))
    assert abs(spectrum_slope(noise)) < 0.2


def test_leaves_have_edges_and_noise_has_none():
    images = procedural_images(16, (96, 96, 3)).astype(np.float64)
    gradients = np.diff(images.mean(-1), axis=1)
    kurtosis = (gradients**4).mean((1, 2)) / (gradients**2).mean((1, 2)) ** 2
    assert np.all(kurtosis[1::2] > 8) and np.all(kurtosis[0::2] < 8), kurtosis


@pytest.mark.parametrize("channels", [2, 3, 13])
def test_channels_belong_together(channels):
    for image in procedural_images(8, (48, 48, channels)):
        correlation = np.corrcoef(image.reshape(-1, channels).T)
        assert correlation.min() > 0.2
        assert correlation[0, 1] < 0.9999


def test_the_set_uses_the_whole_range():
    images = procedural_images(32, (64, 64, 3), -1.0, 1.0)
    lowest, highest, mean = images.min((1, 2, 3)), images.max((1, 2, 3)), images.mean((1, 2, 3))
    assert images.min() == -1 and images.max() == 1
    assert 0.5 < np.mean((lowest < -0.9) & (highest > 0.9)) < 1  # most reach both ends, some are of low contrast
    assert mean.min() < -0.4 and mean.max() > 0.4


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@settings(deadline=None)
@given(shapes, st.integers(0, 2**32 - 1), st.floats(-300, 299), st.floats(1e-3, 300))
def test_any_shape_stays_in_any_range(shape, seed, low, width):
    high = np.float32(low) + np.float32(width)
    images = procedural_images(3, shape, low, high, seed)
    assert images.shape == (3, *shape) and images.dtype == np.float32
    assert images.min() >= np.float32(low) and images.max() <= high


@pytest.mark.parametrize("shape", [(40, 30, 3), (200, 2), (8, 9, 10, 1), (7,)])
def test_same_seed_same_bytes(shape):
    images = procedural_images(5, shape, seed=3)
    assert images.tobytes() == procedural_images(5, shape, seed=3).tobytes()
    assert images[:2].tobytes() == procedural_images(2, shape, seed=3).tobytes()
    assert np.abs(images - procedural_images(5, shape, seed=4)).max() > 0.01
    assert np.abs(images[0] - images[2]).max() > 0.01


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()
    procedural_images(2, (9, 9, 1))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_each_channel_may_have_a_range_of_its_own():
    low, high = np.array([-2.0, 0.0, 5.0]), np.array([-1.0, 10.0, 5.5])
    images = procedural_images(8, (32, 32, 3), low, high)
    assert np.all(images >= low) and np.all(images <= high)
    np.testing.assert_allclose((images - low) / (high - low), procedural_images(8, (32, 32, 3)), atol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((1, (None, 32, 3)), r"\(None, 32, 3\).*fixed sizes"),
        ((1, (2,) * 5), r"\(2, 2, 2, 2, 2\)"),
        ((1, (0, 4, 3)), "at least 1"),
        ((0, (4, 4, 3)), "n is 0"),
        ((1, (4, 4, 3), 1.0, 1.0), "low < high"),
        ((1, (4, 4, 3), 0.0, np.inf), "finite"),
        ((1, (4, 4, 3), np.zeros(2), np.ones(2)), "3 per channel"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        procedural_images(*arguments)


def test_what_is_done_to_images_does_not_change_those_drawn_later():
    first = procedural_images(3, (4, 4, 2), seed=5)
    kept = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(procedural_images(3, (4, 4, 2), seed=5), kept)
