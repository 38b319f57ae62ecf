"""LiteRT's reference kernels and the package's own arithmetic get the same integers, operator by operator and end to end."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from operator_cases import CASES, Case, quantized, weights
from tiny_models import exported

from tfdatafree.integers import products
from tfdatafree.integers.run import KERNELS, IntegerRunner
from tfdatafree.tflite.operators import OPERATORS
from tfdatafree.tflite.runtime import reference_runner


def some_integers(details, seed: int) -> list[np.ndarray]:
    """Inputs of a file: random integers, with both ends among them."""
    random, arrays = np.random.default_rng(seed), []
    for detail in details:
        limits = np.iinfo(detail["dtype"])
        array = random.integers(limits.min, limits.max, detail["shape"], detail["dtype"], endpoint=True)
        array.flat[0], array.flat[-1] = limits.min, limits.max
        arrays.append(array)
    return arrays


def assert_equal_integers(content: bytes, seeds=range(3)) -> IntegerRunner:
    own, reference = IntegerRunner(content), reference_runner(content)
    for seed in seeds:
        arrays = some_integers(reference.inputs, seed)
        expected = reference.run(arrays)
        for index, values in own.walk(arrays):
            np.testing.assert_array_equal(values, reference.kept_value(index), own.file.name(index))
        for output, wanted in zip(own.run(arrays), expected, strict=True):
            assert output.dtype == wanted.dtype
    return own


SHAPES = {
    "a batch of positions": Case(
        lambda x: tf.nn.conv2d(x, weights(1, 3, 2, 6), (2, 1), "VALID", dilations=1), shapes=((1, 7, 9, 4),)
    ),
    "dilated": Case(lambda x: tf.nn.conv2d(x, weights(3, 3, 4, 2), 1, "SAME", dilations=(2, 2))),
    "depthwise, unequal strides": Case(
        lambda x: tf.nn.depthwise_conv2d(x, weights(3, 2, 4, 1), (1, 2, 2, 1), "SAME"), shapes=((1, 7, 6, 4),)
    ),
    "followed by ReLU6": Case(lambda x: tf.nn.relu6(tf.nn.conv2d(x, weights(3, 3, 4, 5), 2, "SAME")), -9.0, 9.0),
    "a sum that broadcasts": Case(tf.add, shapes=((1, 6, 6, 4), (1, 1, 1, 4)), second=(-0.3, 5.0)),
    "rows averaged": Case(lambda x: tf.reduce_mean(x, 1)),
    "pooling at the border": Case(lambda x: tf.nn.avg_pool2d(x, (3, 2), (2, 1), "SAME"), shapes=((1, 7, 5, 3),)),
}


@pytest.mark.parametrize(
    ("name", "bits"), [(name, bits) for name in CASES if name in KERNELS for bits in OPERATORS[name].versions]
)
def test_every_kernel_computes_the_reference_kernels_integers(name, bits):
    own = assert_equal_integers(quantized(CASES[name], bits)[1].content)
    assert not own.borrowed


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_strides_and_fused_activations_change_nothing(name, bits):
    assert not assert_equal_integers(quantized(SHAPES[name], bits)[1].content).borrowed


@pytest.mark.parametrize("name", ["MAX_POOL_2D", "SOFTMAX", "TANH"])
def test_operators_without_a_kernel_are_computed_by_the_reference_kernel(name):
    assert assert_equal_integers(quantized(CASES[name], 8)[1].content).borrowed == {name: 1}


@pytest.mark.parametrize("model", ["plain", "branch_add", "depthwise"])
@pytest.mark.slow
def test_a_whole_file_gets_the_same_integers_end_to_end(model):
    content = exported(model).built.content
    assert content is not None
    assert_equal_integers(content)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides", [(2, 2), (1, 2)])
def test_a_dilated_kernel_with_strides_is_the_kernel_with_zeros_between_its_weights(strides, padding):
    random = np.random.default_rng(0)
    x, kernel = random.integers(-9, 9, (1, 9, 8, 3)).astype(float), random.integers(-9, 9, (3, 2, 3, 1)).astype(float)
    spread = np.zeros((5, 3, 3, 1))
    spread[::2, ::2] = kernel
    options = SimpleNamespace(padding=("SAME", "VALID").index(padding), strideH=strides[0], strideW=strides[1])
    found = products._depthwise(x, kernel, options, (2, 2))
    np.testing.assert_array_equal(found, products._depthwise(x, spread, options, (1, 1)))
