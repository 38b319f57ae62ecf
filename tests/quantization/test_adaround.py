import numpy as np
import pytest

from tfdatafree.numerics.affine import asymmetric_weight_quantizer, weight_quantizer
from tfdatafree.quantization.adaround import _learn, round_adaptively


def layer(groups: int = 1, taps: int = 1, inputs: int = 24, outputs: int = 6):
    """(weights, covariance of correlated inputs)"""
    random = np.random.default_rng(0)
    x = random.normal(size=(500, groups, inputs)) @ random.normal(size=(inputs, inputs))
    covariance = np.stack([np.cov(x[:, g].T) for g in range(groups)]).astype(np.float32)
    return random.uniform(-1, 2, (taps * inputs, outputs)).astype(np.float32), covariance


def lost(w: np.ndarray, rounded: np.ndarray, covariance: np.ndarray) -> float:
    """E ||(W_q - W)^T (x - E x)||^2"""
    groups, inputs, _ = covariance.shape
    error = (rounded.astype(np.float64) - w).reshape(-1, inputs, groups, w.shape[1] // groups)
    return sum(np.einsum("tio,ij,tjo->", error[:, :, g], covariance[g], error[:, :, g]) for g in range(groups))


@pytest.mark.parametrize("groups, taps", [(1, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize("grid", [weight_quantizer, asymmetric_weight_quantizer])
def test_it_loses_less_than_the_nearest_integers(groups, taps, grid):
    w, covariance = layer(groups, taps)
    for axis in (None, 1):
        quantizer = grid(w, 4, axis)
        found = quantizer.dequantize(round_adaptively(w, covariance, quantizer))
        assert lost(w, found, covariance) < 0.8 * lost(w, quantizer(w), covariance)


def test_every_integer_is_beside_its_weight_and_the_same_each_time():
    w, covariance = layer()
    quantizer = asymmetric_weight_quantizer(w, 4)
    found = round_adaptively(w, covariance, quantizer)
    assert found.dtype == np.int8 and found.min() >= quantizer.qmin and found.max() <= quantizer.qmax
    assert np.all(np.abs(quantizer.dequantize(found) - w) < quantizer.scale * 1.0001)
    np.testing.assert_array_equal(found, round_adaptively(w, covariance, quantizer))


def test_without_correlations_the_nearest_are_best():
    w, covariance = layer()
    quantizer = asymmetric_weight_quantizer(w, 4)
    alone = np.eye(covariance.shape[1], dtype=np.float32)[None]
    np.testing.assert_array_equal(round_adaptively(w, alone, quantizer), quantizer.quantize(w))


def test_layers_of_one_shape_share_a_trace():
    w, covariance = layer(inputs=7, outputs=3)
    round_adaptively(w, covariance, weight_quantizer(w, 4))
    before = _learn.experimental_get_tracing_count()
    for bits, steps in ((5, 10), (6, 20)):
        round_adaptively(w * bits, covariance, weight_quantizer(w * bits, bits), steps=steps)
    assert _learn.experimental_get_tracing_count() == before
