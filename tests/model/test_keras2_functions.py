import numpy as np
import pytest
import tensorflow as tf

from tfdatafree import Recipe, compress
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.input_range import find_input_ranges
from tfdatafree.model.graph import Graph
from tfdatafree.model.load import load


def _kernel(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


FUNCTIONS = {
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.3),
    "gelu": tf.nn.gelu,
    "resize": lambda x: tf.image.resize(x, (9, 5)),
    "resize_nearest": lambda x: tf.image.resize(x, (12, 8), method="nearest"),
    "depth_to_space": lambda x: tf.nn.depth_to_space(x, 2),
    "space_to_depth": lambda x: tf.nn.space_to_depth(x, 2),
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]], constant_values=0.5),
    "pad_reflect": lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 1], [0, 0]], "REFLECT"),
    "arithmetic": lambda x: -tf.abs(x) + tf.square(x) - tf.sqrt(tf.exp(x)) * x**3,
    "split": lambda x: tf.concat(tf.split(x, [1, 3], -1)[::-1], -1),
    "stack": lambda x: tf.stack([x, 2 * x], -1),
    "tile": lambda x: tf.tile(x, [1, 1, 2, 1]),
    "transpose": lambda x: tf.transpose(x, [0, 2, 1, 3]),
    "cast": lambda x: tf.cast(x > 0.2, tf.float32),
    "l2_normalize": lambda x: tf.math.l2_normalize(x, -1),
    "matmul": lambda x: tf.matmul(x, x, transpose_b=True),
    "pools": lambda x: tf.nn.avg_pool2d(tf.nn.max_pool2d(x, 2, 2, "SAME"), [1, 2, 1, 1], 1, "VALID"),
    "reverse": lambda x: tf.reverse(x, [2]),
    "squeeze": lambda x: tf.squeeze(tf.expand_dims(x, 1), 1),
    "where": lambda x: tf.where(tf.logical_and(x > 0, x < 1), x, 0.1 * x),
    "conv2d": lambda x: tf.nn.conv2d(x, _kernel(3, 2, 4, 5), [1, 2, 1, 1], "SAME"),
    "conv2d_dilated": lambda x: tf.nn.conv2d(x, _kernel(2, 2, 4, 5), 1, "VALID", dilations=2),
    "conv2d_grouped": lambda x: tf.nn.conv2d(x, _kernel(3, 3, 2, 6), 1, "SAME"),
    "convolution": lambda x: tf.nn.convolution(x, _kernel(3, 3, 4, 5)),
    "depthwise": lambda x: tf.nn.depthwise_conv2d(x, _kernel(3, 3, 4, 2), [1, 1, 1, 1], "SAME", dilations=[2, 2]),
    "depthwise_v1": lambda x: tf.compat.v1.nn.depthwise_conv2d(x, _kernel(3, 3, 4, 2), [1, 2, 2, 1], "VALID"),
    "bias": lambda x: tf.nn.bias_add(x, _kernel(4)) + _kernel(4) + _kernel(1, 4),
    "dense": lambda x: tf.matmul(tf.matmul(x, _kernel(4, 3)), _kernel(2, 3), transpose_b=True),
    "argmax": lambda x: tf.cast(tf.argmax(x, -1), tf.float32),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.slow
def test_functions_that_keras_2_models_call_keep_their_values(name):
    k2 = pytest.importorskip("tf_keras")
    inputs = k2.layers.Input((6, 4, 4))
    old = k2.Model(inputs, k2.layers.ReLU()(FUNCTIONS[name](inputs)))
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 4)).astype("float32")
    np.testing.assert_allclose(load(old)(x), old(x), atol=1e-5)


def test_a_shift_of_an_input_says_nothing_of_its_range():
    k2 = pytest.importorskip("tf_keras")
    inputs = k2.layers.Input((6, 4, 4))
    old = k2.Model(inputs, tf.nn.conv2d(tf.math.add(inputs, _kernel(4)), _kernel(3, 3, 4, 2), 1, "SAME"))
    found = find_input_ranges(separate(Graph.from_keras(load(old))).graph)[0]
    assert found.warning and not found.told


@pytest.mark.slow
def test_files_that_converters_write_with_functions_in_place_of_layers_are_compressed(tmp_path):
    """For one example, in the format of Keras 3, with constants for weights. Nothing in them could run code."""
    k2 = pytest.importorskip("tf_keras")
    x = inputs = k2.layers.Input((8, 8, 3), batch_size=1)
    x = tf.compat.v1.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    x = tf.nn.relu(tf.math.add(tf.nn.convolution(x, _kernel(3, 3, 3, 8), strides=[2, 2], padding="VALID"), _kernel(8)))
    x = tf.compat.v1.nn.depthwise_conv2d(tf.compat.v1.transpose(x, [0, 1, 2, 3]), _kernel(3, 3, 8, 1), [1] * 4, "SAME")
    x = tf.reshape(tf.math.reduce_mean(x, [1, 2], keepdims=True), [1, 8])
    old = k2.Model(inputs, tf.math.add(tf.linalg.matmul(x, _kernel(8, 4)), _kernel(4)))
    old.save(tmp_path / "converted.keras")
    compressed = compress(tmp_path / "converted.keras", Recipe(), input_range=(-1, 1), verbose=0)
    kernels = [grid for grid in compressed.weight_grids.values() if grid is not None]
    assert [grid.bits for grid in kernels] == [8, 8, 8]
    image = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)).astype("float32")
    wanted = old(image).numpy()
    assert np.abs(compressed.predict(image) - wanted).max() < 0.05 * np.abs(wanted).max()
