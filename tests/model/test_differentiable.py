import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from tfdatafree.model.differentiable import differentiable
from tfdatafree.model.graph import Graph


@pytest.mark.parametrize(("kernel", "strides", "padding"), [(1, (1, 2), "valid"), (2, 3, "same"), (3, 2, "same")])
def test_function_and_gradient_are_kept_and_the_kernel_covers_the_stride(kernel, strides, padding, monkeypatch):
    image = keras.Input((6, 6, 2))
    graph = Graph.from_keras(keras.Model(image, L.Conv2DTranspose(3, kernel, strides, padding)(image))).with_tensors()
    x = tf.random.stateless_normal((2, 6, 6, 2), (0, 0))
    shapes = []
    original = keras.ops.conv_transpose
    monkeypatch.setattr(
        "tfdatafree.model.differentiable.ops.conv_transpose",
        lambda x, kernel, **options: shapes.append(kernel.shape) or original(x, kernel, **options),
    )
    results = []
    for form in (graph, differentiable(graph)):
        node = form.nodes[0]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = form.call(node, {node.inputs[0]: x})[0]
            loss = tf.reduce_sum(tf.sin(y))
        results.append((y, tape.gradient(loss, x)))
    for found, expected in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    largest = np.broadcast_to(strides, 2)
    assert all((np.array(shape[:2]) >= largest).all() for shape in shapes[-1:])
