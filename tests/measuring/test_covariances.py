import keras
import numpy as np
from keras import layers as L

from tfdatafree.measuring.covariances import input_covariances
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.second_moment import damped


def test_nearly_constant_inputs_leave_no_rounding_errors_in_the_covariance():
    image = keras.Input((4, 4, 3), name="image")
    graph = Graph.from_keras(keras.Model(image, L.Conv2D(4, 1, name="conv")(image)))

    def draw(n, seed):
        values = np.random.default_rng(seed).normal(0, 1, (n, 4, 4, 3))
        return [(values * [1, 1e-6, 1e-5] + [0, 0.7, 300]).astype("float32")]

    covariance = input_covariances(graph, graph, draw, images=64)["conv"]
    assert covariance[0, 0, 0] > 0.5
    assert not covariance[0, 1:].any() and not covariance[0, :, 1:].any()
    assert np.linalg.eigvalsh(damped(covariance)[0]).min() > 0
