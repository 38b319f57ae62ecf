import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import random_inputs, randomized, relative_difference

from tfdatafree.canonical.fold_scales import fold_scales
from tfdatafree.model.graph import Graph

MEAN, VARIANCE = [0.5, 0.4, 0.3], [0.04, 0.05, 0.06]


class LayerScale(L.Layer):
    """Multiplies each channel by a weight, as networks of the ConvNeXt family do."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],))

    def call(self, x):
        return x * self.gamma


# Layers before and behind a convolution -> classes that are left.
CASES = {
    "scale before": ([L.Rescaling(1 / 255, name="scale")], [], ["Conv2D"]),
    "shift before": ([L.Rescaling(2.0, -1.0, name="scale")], [], ["DepthwiseConv2D", "Conv2D"]),
    "a chain": (
        [L.Rescaling(1 / 255, name="scale"), L.Normalization(mean=MEAN, variance=VARIANCE, name="normalize")],
        [],
        ["DepthwiseConv2D", "Conv2D"],
    ),
    "behind": ([], [LayerScale(name="scale"), L.Rescaling(0.5, 1.0, name="shift")], ["Conv2D"]),
    "not per channel": ([L.Rescaling(np.full((8, 8, 1), 2.0), name="scale")], [], ["Rescaling", "Conv2D"]),
}


def model(before: list, behind: list) -> keras.Model:
    x = image = keras.Input((8, 8, 3), name="image")
    for layer in (*before, L.Conv2D(4, 3, padding="same", name="conv"), *behind):
        x = type(layer).from_config(layer.get_config())(x)
    return randomized(keras.Model(image, L.GlobalAveragePooling2D(name="pool")(x)))


@pytest.mark.parametrize("case", CASES)
def test_function_is_kept_and_scales_are_folded(case):
    before, behind, wanted = CASES[case]
    graph = Graph.from_keras(model(before, behind))
    layers, inputs = dict(graph.layers), random_inputs(graph)
    folded = fold_scales(graph).graph
    assert relative_difference(folded.predict(inputs), graph.predict(inputs)) < 1e-5
    assert [folded.layer_of(node).class_name for node in folded.nodes[:-1]] == wanted
    assert graph.layers == layers


def test_tensors_keep_their_names_and_values():
    graph = Graph.from_keras(model(*CASES["a chain"][:2]))
    folded, inputs = fold_scales(graph).graph, random_inputs(graph)
    before = {t: np.asarray(live[t]) for node, live in graph.walk(inputs) for t in node.outputs}
    after = {t: np.asarray(live[t]) for node, live in folded.walk(inputs) for t in node.outputs}
    assert set(after) < set(before)
    for tensor, value in after.items():
        assert relative_difference([value], [before[tensor]]) < 1e-5, tensor
