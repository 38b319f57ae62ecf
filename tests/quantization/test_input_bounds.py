import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from tiny_models import every_kind, folded, randomized

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.form import canonical_form
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.input_bounds import bounds_behind_inputs

LOW, HIGH = -0.5, 2.0


def reached(graph: Graph, arrays: list[np.ndarray]) -> dict[str, tuple[float, float]]:
    tensors = list(graph.specs)
    values = graph.up_to(tensors).predict(arrays)
    return {tensor: (float(value.min()), float(value.max())) for tensor, value in zip(tensors, values, strict=True)}


@every_kind
def test_no_input_within_its_range_leads_beyond_the_bounds(name):
    graph, random = folded(name), np.random.default_rng(0)
    bounds = bounds_behind_inputs(graph, dict.fromkeys(graph.inputs, Range(LOW, HIGH)))
    shapes = [graph.specs[name].example_shape for name in graph.inputs]
    # At the corners of their range inputs reach farthest.
    arrays = [random.choice([LOW, HIGH], (8, *shape)).astype(np.float32) for shape in shapes]
    for tensor, (low, high) in reached(graph, arrays).items():
        if tensor in bounds:
            slack = 1e-4 * (bounds[tensor].high - bounds[tensor].low)
            assert bounds[tensor].low - slack <= low and high <= bounds[tensor].high + slack, tensor


@pytest.mark.parametrize(
    "layer",
    [
        L.Conv2D(3, 3, padding="same"),
        L.Conv2D(4, 3, groups=2),
        L.DepthwiseConv2D(3, depth_multiplier=2),
        L.Conv2DTranspose(3, 3, strides=1),
        L.Dense(3),
        L.BatchNormalization(),
        L.LeakyReLU(),
        L.ReLU(max_value=1.5),
        L.MaxPooling2D(2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_some_input_reaches_the_bounds_of_the_first_layer(layer):
    model = randomized(keras.Sequential([keras.Input((9, 9, 2)), layer]))
    graph = fold(canonical_form(Graph.from_keras(model)).graph).graph
    bound = bounds_behind_inputs(graph, {graph.inputs[0]: Range(LOW, HIGH)})[graph.outputs[0]]
    # The input that reaches farthest has either end of the range wherever the gradient of the farthest value says so.
    ends = [0.0]
    for sign in (1.0, -1.0):
        for value in range(graph.specs[graph.outputs[0]].size(-1)):
            ends.append(sign * farthest(graph, value, sign))
    assert np.isclose(max(ends), bound.high, rtol=1e-3, atol=1e-5) and np.isclose(
        min(ends), bound.low, rtol=1e-3, atol=1e-5
    )


def farthest(graph: Graph, channel: int, sign: float) -> float:
    """The largest value of sign times the middle pixel's channel, by steps to the corners of the input's range."""
    model = graph.to_keras()
    x = tf.constant(np.random.default_rng(channel).uniform(LOW, HIGH, (1, 9, 9, 2)).astype(np.float32))
    best = -np.inf
    for _ in range(6):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x)
            value = sign * y[0, y.shape[1] // 2, y.shape[2] // 2, channel]
        best = max(best, float(value))
        slope = tape.gradient(value, x)
        x = tf.where(slope > 0, HIGH, tf.where(slope < 0, LOW, x))
    return best
