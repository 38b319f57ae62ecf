import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import export, randomized

from tfdatafree.export.constants import Constant, fit_bias, integer_bias
from tfdatafree.numerics.affine import SMALLEST_SCALE, Quantizer, weight_quantizer


def kernel_of(values, axis=0):
    quantizer = weight_quantizer(values, 8, axis)
    return Constant(quantizer.quantize(values), quantizer)


@pytest.mark.parametrize("axis", [0, None])
def test_scales_are_raised_until_the_bias_fits(axis):
    weights = np.array([[1e-9, -2e-9], [0.5, 1.0]])
    bias = np.array([3.0, 0.1])
    if axis is None:
        weights = weights[:1]
    kernel = kernel_of(weights, axis)
    assert np.abs(integer_bias(bias[: len(weights)], kernel, 0.02, 8).values).max() == np.iinfo(np.int32).max  # clipped
    fitted, raised = fit_bias(kernel, bias[: len(weights)], 0.02)
    assert raised == 1
    written = integer_bias(bias[: len(weights)], fitted, 0.02, 8)
    assert np.abs(written.values.astype(np.int64)).max() <= 2**30
    np.testing.assert_allclose(written.values * np.atleast_1d(written.quantizer.scale), bias[: len(weights)], rtol=1e-6)
    if axis == 0:
        np.testing.assert_array_equal(fitted.values[1], kernel.values[1])  # the other channel keeps its grid


def test_a_channel_without_weights_keeps_its_bias_finely():
    kernel = kernel_of(np.array([[0.0, 0.0], [0.5, 1.0]]))
    fitted, raised = fit_bias(kernel, np.array([1e-5, 0.1]), 0.5)
    written = integer_bias(np.array([1e-5, 0.1]), fitted, 0.5, 8)
    assert raised == 0
    assert written.values[0] * written.quantizer.scale[0] == pytest.approx(1e-5, rel=1e-5)
    assert not fitted.values[0].any()


def test_sound_kernels_are_left_alone():
    kernel = kernel_of(np.array([[0.2, 0.1], [0.5, 1.0]]))
    fitted, raised = fit_bias(kernel, np.array([0.3, -0.4]), 0.1)
    assert fitted is kernel and raised == 0


def test_calls_of_one_layer_share_scales_that_suit_the_smallest_input():
    """A shared layer with a dead channel: the scale, which depends on its bias only, must suit both calls."""
    x = inputs = keras.Input((8, 8, 3))
    shared, louder = L.Conv2D(3, 1, name="shared"), L.Conv2D(3, 1, name="louder")
    first = shared(x)
    second = shared(L.ReLU()(louder(first)))
    model = randomized(keras.Model(inputs, [first, second]))
    louder.kernel.assign(louder.kernel * 1e5)
    kernel = shared.kernel.numpy()
    kernel[..., 1] = 0
    shared.kernel.assign(kernel)
    found = export(model)
    assert not found.built.float_reasons
    assert max(check.lsb for check in found.built.checks.values()) <= 1


@pytest.mark.parametrize("bias", [0.0, 1e-44])
def test_scales_of_denormal_weights_leave_a_scale_for_the_bias(bias):
    weights = np.float32([[1.0, -0.5], [1e-42, -1e-43], [0.0, 0.0]])
    quantizer = weight_quantizer(weights, 8, 0)
    quantizer = Quantizer(np.where([False, True, False], 1e-37, quantizer.scale), 0, 8, 0, narrow_range=True)
    kernel, _ = fit_bias(Constant(quantizer.quantize(weights), quantizer), np.full(3, bias), 1e-3)
    constant = integer_bias(np.full(3, bias), kernel, 1e-3, 8)
    assert np.all(np.asarray(constant.quantizer.scale) >= SMALLEST_SCALE)
    np.testing.assert_array_equal(kernel.values[0], quantizer.quantize(weights)[0])
