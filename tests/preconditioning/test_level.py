import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import (
    QUICK,
    every_model,
    folded,
    random_inputs,
    randomized,
    relative_difference,
    separated,
    without_metadata,
)

import tfdatafree
from tfdatafree import Quantize, Recipe
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.make import make_inputs
from tfdatafree.measuring.tensor_statistics import channel_reaches
from tfdatafree.measuring.walks import image_walk, normalized_walk
from tfdatafree.model.graph import Graph
from tfdatafree.preconditioning.level import level_channels
from tfdatafree.preconditioning.scale_channels import find_groups, scale_alike, scale_folded

ENDS = (-1.0, 1.0)


def reaches_of(unfolded):
    return channel_reaches(normalized_walk(unfolded, make_inputs(unfolded, 4, ENDS)))


def bottleneck():
    """Two linear tensors joined by Add whose channels reach between 0.05 and 5, and matter alike to what reads them."""
    x = inputs = keras.Input((12, 12, 3))
    x = L.BatchNormalization(name="wide")(L.Conv2D(8, 3, padding="same", use_bias=False)(x))
    y = L.ReLU(6)(L.BatchNormalization()(L.Conv2D(16, 1, use_bias=False, name="branch")(x)))
    y = L.BatchNormalization(name="narrow")(L.Conv2D(8, 1, use_bias=False)(y))
    x = L.Add(name="sum")([x, y])
    x = L.ReLU(6)(L.Conv2D(6, 3, name="reader")(x))
    model = randomized(keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x))))
    sizes = np.geomspace(0.01, 1, 8)
    for name, largest in (("wide", 5), ("narrow", 1)):
        bn = model.get_layer(name)
        bn.gamma.assign(sizes * largest)
        bn.beta.assign(np.zeros(8))
    for name in ("branch", "reader"):
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel.numpy() / sizes[:, None])
    return model


@every_model
def test_function_is_kept(name):
    unfolded = separated(name)
    inputs = random_inputs(unfolded)
    leveled = level_channels(unfolded, folded(name), reaches_of(unfolded))
    graphs = leveled.graph, scale_folded(folded(name), leveled.scales)
    wanted = unfolded.predict(inputs)
    for graph in graphs:
        assert relative_difference(graph.predict(inputs), wanted) < 1e-4
    if name in ("branch_add", "depthwise", "no_bias"):  # tensors of one name hold the same values in both
        found = [channel_reaches(image_walk(graph, inputs)) for graph in graphs]
        for tensor in found[1]:
            np.testing.assert_allclose(found[0][tensor], found[1][tensor], rtol=1e-3, atol=1e-5)


def test_channels_come_half_the_way_to_equal_reaches():
    unfolded = separate(Graph.from_keras(bottleneck())).graph
    before = reaches_of(unfolded)
    after = reaches_of(level_channels(unfolded, fold(unfolded).graph, before).graph)
    group = next(group for group in find_groups(fold(unfolded).graph)[0] if len(group.producers) == 2)
    tensors = {node.output for node in group.producers} | {node.inputs[0] for node in group.consumers}
    parts = [{tensor: reach[tensor] / reach[tensor].max() for tensor in tensors} for reach in (before, after)]
    farthest = np.max(list(parts[0].values()), axis=0)
    assert farthest.min() < 0.05
    for tensor in tensors:
        # scaled by the root of what the channel reaches where it reaches farthest, then by one factor for the tensor
        scaled = parts[0][tensor] / np.sqrt(np.maximum(farthest, 1e-2))
        np.testing.assert_allclose(parts[1][tensor], scaled / scaled.max(), rtol=1e-3)


def test_a_channel_that_reaches_nowhere_is_left_alone():
    unfolded = separate(Graph.from_keras(bottleneck())).graph
    reaches = {tensor: np.where(np.arange(len(reach)) == 2, 0, reach) for tensor, reach in reaches_of(unfolded).items()}
    leveled = level_channels(unfolded, fold(unfolded).graph, reaches).graph
    for name in ("wide", "narrow"):
        scale = leveled.layers[name].weight("gamma") / unfolded.layers[name].weight("gamma")
        assert scale[2] == 1 and (scale[:2] > 2).all()


@pytest.mark.slow
def test_another_copy_is_leveled_alike():
    """So a teacher's tensors compare with a compressed model's, channel by channel."""
    model = bottleneck()
    compressed = tfdatafree.compress(model, Recipe(quantize=Quantize(activation_bits=8)), input_range=ENDS, verbose=0)
    assert max(scale.max() for scale in compressed.channel_scales.values()) > 3
    unfolded = separate(Graph.from_keras(model)).graph
    x = [np.random.default_rng(0).uniform(*ENDS, (8, 12, 12, 3)).astype(np.float32)]
    alike, plain = (
        dict(image_walk(graph, x)) for graph in (scale_alike(unfolded, compressed.channel_scales).graph, unfolded)
    )
    found = dict(image_walk(compressed.built.graph, x))
    for name in ("wide", "narrow", "sum"):
        size = np.linalg.norm(alike[name])
        assert np.linalg.norm(found[name] - alike[name]) < 0.03 * size < 0.2 * np.linalg.norm(found[name] - plain[name])


@pytest.mark.slow
def test_it_pays_in_eight_bits():
    model = bottleneck()
    x = np.random.default_rng(3).uniform(*ENDS, (64, 12, 12, 3)).astype(np.float32)
    wanted = model.predict(x, verbose=0)

    def error(level):
        recipe = Recipe(level_activations=level, quantize=Quantize(edge_dtype="float32"))
        found = tfdatafree.compress(model, recipe, input_range=ENDS, verbose=0).predict(x)
        return np.linalg.norm(found - wanted)

    assert error(True) < 0.7 * error(False)


@pytest.mark.parametrize("options", [{"quantize": Quantize(activation_bits=16)}, {"equalize": True}])
@pytest.mark.slow
def test_it_stays_out_of_the_way(options):
    """Of 16-bit steps, which need no help, and of equalized kernels."""
    model = bottleneck()
    recipes = [Recipe(**options, generate=QUICK, level_activations=level) for level in (True, False)]
    files = [tfdatafree.compress(model, recipe, input_range=ENDS, verbose=0) for recipe in recipes]
    assert without_metadata(files[0].tflite) == without_metadata(files[1].tflite)
