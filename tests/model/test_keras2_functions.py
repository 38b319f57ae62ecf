import numpy as np
import pytest
import tensorflow as tf

from tfdatafree.model.load import load

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
