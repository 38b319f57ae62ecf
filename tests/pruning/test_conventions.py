"""The zeros of magnitude pruning lie where another library, the TensorFlow Model Optimization Toolkit, puts them."""

import os

import numpy as np
import pytest

from tfdatafree.pruning.pattern_mask import mask_of
from tfdatafree.pruning.sparsity import largest_of_each, uniform
from tfdatafree.recipe.pattern import parse_pattern

KERNELS = {"conv": (3, 3, 8, 12), "pointwise": (1, 1, 16, 20), "dense": (24, 10)}


@pytest.fixture(scope="module")
def toolkit():
    pytest.importorskip("tf_keras", reason="the toolkit prunes models of tf_keras: pip install tf_keras")
    legacy = os.environ.get("TF_USE_LEGACY_KERAS")
    module = pytest.importorskip(
        "tensorflow_model_optimization", reason="compared with: pip install tensorflow-model-optimization"
    )
    if legacy is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    return module


def kernels() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {key: random.normal(size=shape).astype(np.float32) for key, shape in KERNELS.items()}


def masks_of_toolkit(toolkit, weights: dict[str, np.ndarray], sparsity: float, **options) -> dict[str, np.ndarray]:
    """Layer -> which weights stay (True) once the toolkit's pruning wrapper has updated its mask."""
    import tf_keras

    schedule = toolkit.sparsity.keras.ConstantSparsity(sparsity, begin_step=1)
    result = {}
    for key, kernel in weights.items():
        *front, inputs, outputs = kernel.shape
        layer = tf_keras.layers.Conv2D(outputs, front, name=key) if front else tf_keras.layers.Dense(outputs, name=key)
        wrapped = toolkit.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule, **options)
        wrapped.build((None, 8, 8, inputs) if front else (None, inputs))
        wrapped.layer.kernel.assign(kernel)
        wrapped.pruning_step.assign(1)
        wrapped.pruning_obj.conditional_mask_update()
        wrapped.pruning_obj.weight_mask_op()
        result[key] = wrapped.layer.kernel.numpy() != 0
    return result


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8])
def test_uniform_keeps_the_weights_that_the_toolkit_keeps(toolkit, sparsity):
    weights = kernels()
    expected = masks_of_toolkit(toolkit, weights, sparsity)
    # Its count is rounded layer by layer; ours has whole numbers that add up to the network's budget.
    counts = uniform({key: kernel.size for key, kernel in weights.items()}, sparsity)
    for key, mask in expected.items():
        assert abs(counts[key] - np.count_nonzero(mask)) <= 1
    result = largest_of_each(
        {key: np.abs(kernel) for key, kernel in weights.items()},
        {key: int(np.count_nonzero(mask)) for key, mask in expected.items()},
    )
    for key, mask in expected.items():
        np.testing.assert_array_equal(result[key], mask)


@pytest.mark.parametrize("pattern, zeros", [("2:4", 2), ("1:4", 3)])
def test_of_every_four_the_same_stay_as_in_the_toolkit(toolkit, pattern, zeros):
    weights = kernels()
    for key, mask in masks_of_toolkit(toolkit, weights, zeros / 4, sparsity_m_by_n=(zeros, 4)).items():
        assert not mask.all()
        np.testing.assert_array_equal(mask_of(np.abs(weights[key]), parse_pattern(pattern)), mask)
