"""Students whose channels compression scaled: the teacher's channels are scaled alike before features are compared."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import QUICK, block, head, image, randomized, relative_difference, untraced

from tfdatafree import Prune, Quantize, Recipe, compress, feature_regression
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.model.graph import Graph
from tfdatafree.model.rewrite import multiplied
from tfdatafree.preconditioning.scale_channels import scale_alike

IMAGES = procedural_images(48, (8, 8, 3), -1, 1, seed=3)
FINE = Quantize(activation_bits=16)
KEPT_FLOAT = Recipe(quantize=None, equalize=True, generate=QUICK)
RECIPES = {
    "a part": dataclasses.replace(KEPT_FLOAT, equalize_power=0.5),
    "channel": dataclasses.replace(KEPT_FLOAT, equalize_caps="channel"),
    "limit": dataclasses.replace(KEPT_FLOAT, equalize_caps="limit"),
    "drop": dataclasses.replace(KEPT_FLOAT, equalize_caps="drop"),
    "absorbed": dataclasses.replace(KEPT_FLOAT, absorb_bias=True),
    "outliers, equalized": Recipe(
        quantize=FINE, scale_outliers=True, equalize=True, equalize_caps="channel", generate=QUICK
    ),
    "outliers, leveled": Recipe(quantize=Quantize(per_channel=False), scale_outliers=True, generate=QUICK),
}


@functools.cache
def uneven() -> keras.Model:
    """Channels of very different ranges, some far above zero; caps, and after one of them a channel with outlying weights."""
    x = image()
    y = L.ReLU()(L.BatchNormalization(name="a_bn")(L.Conv2D(6, 3, padding="same", name="a")(x)))
    y = L.ReLU(6.0)(L.BatchNormalization(name="b_bn")(L.Conv2D(6, 1, name="b")(y)))
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="deep")(y)
    y = L.ReLU(6.0)(L.BatchNormalization(name="deep_bn")(y))
    model = randomized(keras.Model(x, head(L.ReLU()(block(y, 4, "c")), 5), name="uneven"))
    spread = np.array([0.03, 0.1, 0.3, 1, 1, 3], np.float32)
    for name, part in (("a_bn", spread), ("b_bn", np.array([1, 1, 1, 0.02, 1, 1], np.float32))):
        bn = model.get_layer(name)
        high = np.abs(np.array(bn.gamma)) * np.array([0, 4, 0, 0, 4, 0])
        bn.gamma.assign(np.array(bn.gamma) * part)
        bn.beta.assign((np.array(bn.beta) + high) * part)
    kernel = np.array(model.get_layer("deep").kernel)
    kernel[1, 1, 3] = 30.0
    model.get_layer("deep").kernel.assign(kernel)
    return model


def loss_at_the_start(student, teacher) -> float:
    options = {"solve": False, "reestimate": False, "flip": False, "batch_size": 36}
    with untraced():
        return float(feature_regression(student, teacher, IMAGES, steps=1, verbose=0, **options).loss[0])


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.slow
def test_a_student_that_was_only_scaled_has_the_teachers_features(name):
    teacher = uneven()
    student = compress(teacher, RECIPES[name], input_range=(-1, 1), verbose=0)
    scales = student.channel_scales
    assert max(np.abs(np.log(scale)).max() for scale in scales.values()) > 0.5
    # Some of them still differ by what the caps cut off and by rounding.
    found, most = loss_at_the_start(student, teacher), 0.1 if name == "limit" or "outliers" in name else 1e-4
    assert found < most
    if most == 0.1:
        student = dataclasses.replace(student, channel_scales={})
        assert loss_at_the_start(student, teacher) > max(1.5 * found, 0.05), (
            "the scales are all that brings them so close"
        )


@pytest.mark.slow
def test_the_teachers_function_stays():
    teacher = separate(Graph.from_keras(uneven())).graph
    student = compress(uneven(), RECIPES["outliers, equalized"], input_range=(-1, 1), verbose=0)
    scaled = scale_alike(teacher, student.channel_scales).graph
    inputs = [3 * IMAGES]
    assert relative_difference(scaled.predict(inputs), teacher.predict(inputs)) < 1e-4
    assert (scaled.layers["b_bn"].weight("gamma") != teacher.layers["b_bn"].weight("gamma")).any()


def test_scales_of_two_stages_multiply():
    found = multiplied({"a": np.array([2.0, 3.0]), "b": np.array([5.0])}, {"a": np.array([10.0, 1.0]), "c": np.ones(2)})
    assert {key: list(value) for key, value in found.items()} == {"a": [20, 3], "b": [5], "c": [1, 1]}


@pytest.mark.parametrize("recipe", ["pruned", "4 bits"])
@pytest.mark.slow
def test_an_equalized_student_recovers_as_well_as_another(recipe):
    options = {
        "pruned": {"quantize": None, "prune": Prune(sparsity=0.6, method="uniform", images=16)},
        "4 bits": {"quantize": Quantize(weight_bits=4, rounding="nearest", bias_correction=False)},
    }[recipe]
    teacher, after = uneven(), {}
    for equalize in (False, True):
        student = compress(
            teacher, Recipe(equalize=equalize, generate=QUICK, **options), input_range=(-1, 1), verbose=0
        )
        after[equalize] = feature_regression(student, teacher, IMAGES, steps=0, verbose=0).after
    assert after[True] < 1.25 * after[False]
