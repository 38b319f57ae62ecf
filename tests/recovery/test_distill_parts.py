"""The parts of distillation: what student, losses, generator and images promise, each by itself."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import compressed, folded, random_inputs, separated

from tfdatafree import (
    METHODS,
    Comparison,
    Distillation,
    ImageGenerator,
    InvertedImages,
    MatchedImages,
    Quantize,
    Recipe,
    Thresholds,
)
from tfdatafree.inputs.stored_statistics import StoredStatistics
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.recipe.distillation import get_method
from tfdatafree.recovery.activation_grids import ActivationGrids, trained_grids
from tfdatafree.recovery.distillation.generator_network import build_generator, draw_noise
from tfdatafree.recovery.distillation.held_out import is_better
from tfdatafree.recovery.distillation.layerwise import LayerwiseLoss
from tfdatafree.recovery.distillation.losses import (
    divergence,
    feature_distance,
    instance_entropy,
    negated_batch_entropy,
    relation_distance,
    symmetric_divergence,
)
from tfdatafree.recovery.distillation.pool import Batches, Pool
from tfdatafree.recovery.distillation.statistics_losses import (
    euclidean_distance,
    gaussian_divergence,
    mean_square_distance,
)
from tfdatafree.recovery.distillation.student import Student
from tfdatafree.recovery.parameters import Bounds, trained_parameters
from tfdatafree.recovery.straight_through import straight_through, straight_through_trained

pytestmark = pytest.mark.slow


def drawn(*shape: int, seed: int = 1) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


# Rounding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grid", [Quantizer(0.3, -8, 4), Quantizer([0.3, 0.1], 0, 4, channel_axis=1)], ids=["tensor", "channels"]
)
def test_a_trained_scale_gives_the_grids_values_and_the_published_gradients(grid):
    x = tf.constant([[-9.0, -9.0], [-0.4, 0.32], [0.7, 0.05], [1.9, 9.0]])
    scale = tf.Variable(np.asarray(grid.scale, np.float32))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = straight_through_trained(x, tf.convert_to_tensor(scale), grid)
    np.testing.assert_allclose(y, grid(x.numpy()), rtol=1e-6)
    np.testing.assert_allclose(y, straight_through(x, grid), rtol=1e-6)
    of_x, of_scale = tape.gradient(y, [x, scale])
    steps = x.numpy() / np.broadcast_to(grid.scale, (2,))
    low, high = grid.qmin - np.broadcast_to(grid.zero_point, (2,)), grid.qmax - np.broadcast_to(grid.zero_point, (2,))
    inside = (steps >= low) & (steps <= high)
    assert inside.any() and not inside.all()
    np.testing.assert_array_equal(of_x, inside.astype(np.float32))
    wanted = np.where(inside, np.rint(steps) - steps, np.clip(steps, low, high))
    wanted = wanted.sum(axis=0) if grid.channel_axis is not None else wanted.sum()
    np.testing.assert_allclose(of_scale, wanted, rtol=1e-4)


# Student ----------------------------------------------------------------------------------------------------------------


def student_of(graph: Graph, *, masks=None, grids=None, activations=None, **options) -> Student:
    sizes = dict.fromkeys(graph.layers, np.float32(1))  # of features: otherwise biases would not move
    parameters = trained_parameters(graph, sizes, Bounds(masks or {}, grids or {}))
    options = {"scales": 0.1, **options}
    return Student(graph, parameters, activations or ActivationGrids({}, {}), **options)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("name", ["branch_add", "depthwise_multiplier", "shared_layer"])
def test_before_training_a_student_is_the_graph_that_it_was_made_of(name, relative):
    graph = separated(name)
    inputs = random_inputs(graph)
    student = student_of(graph, relative=relative)
    values = student.values_of([tf.constant(array) for array in inputs], graph.outputs)
    for tensor, wanted in zip(graph.outputs, graph.predict(inputs), strict=True):
        np.testing.assert_allclose(values[tensor], wanted, rtol=1e-4, atol=1e-5)
    for key, layer in student.result().layers.items():
        for ours, theirs in zip(layer.weights, graph.layers[key].weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_whatever_moves_zeros_stay_and_kernels_lie_on_the_students_grids():
    result = compressed("branch_add", Recipe(quantize=Quantize(weight_bits=4)))
    graph = Graph.from_keras(result.model)
    grids = {key: grid for key, grid in result.weight_grids.items() if grid is not None}
    masks = {key: kernel_of(graph.layers[key]) > 0 for key in grids}
    student = student_of(graph, masks=masks, grids=grids, activations=trained_grids(result))
    for at, variable in enumerate(student.trained):
        variable.assign_add(drawn(*variable.shape, seed=at) if variable.shape else tf.constant(0.5))
    values = student.values_of([tf.constant(a) for a in random_inputs(graph)], graph.outputs)
    moved = student.result()
    assert student.grids().keys() == grids.keys()
    for key, grid in student.grids().items():
        kernel = kernel_of(moved.layers[key])
        assert not np.array_equal(grid.scale, grids[key].scale) and not kernel[~masks[key]].any() and kernel.any()
        np.testing.assert_array_equal(grid(kernel), kernel)
    # What it computes in training is what the written weights compute, on the activation grids that ranges lead back to.
    ranges = student.ranges()
    assert ranges and not ranges.keys() & set(result.built.graph.inputs)
    with_grids = result.decision.placement.grids({**result.decision.ranges, **ranges}, 8)
    for tensor in ranges:
        assert with_grids[tensor].zero_point == result.built.grids[tensor].zero_point
        assert with_grids[tensor].scale != result.built.grids[tensor].scale
    again = student_of(moved, grids=student.grids(), scales=0.0)
    same_weights = again.values_of([tf.constant(a) for a in random_inputs(graph)], graph.outputs)
    assert all(np.isfinite(values[t]).all() and values[t].shape == same_weights[t].shape for t in graph.outputs)


def test_batchnorms_in_training_mode_normalize_the_batch_and_remember_it():
    graph = separated("plain")
    student = student_of(graph, batch_statistics=True)
    inputs = [tf.constant(array) for array in random_inputs(graph, 16)]
    before = student.values_of(inputs, ["a_bn"], training=False)["a_bn"]
    for _ in range(60):
        y = student.values_of(inputs, ["a_bn"], training=True)["a_bn"]
    layer = graph.layers["a_bn"]
    np.testing.assert_allclose(np.mean(y, axis=(0, 1, 2)), layer.weight("beta"), atol=1e-3)
    assert np.abs(np.mean(before, axis=(0, 1, 2)) - layer.weight("beta")).max() > 0.05
    # The statistics that it stores become those of the batch.
    np.testing.assert_allclose(student.values_of(inputs, ["a_bn"])["a_bn"], y, atol=0.05)


# Losses -----------------------------------------------------------------------------------------------------------------


def test_losses_are_zero_for_equals_and_above_zero_else():
    t, s = drawn(6, 5), drawn(6, 5, seed=2)
    a, b = [drawn(3, 6, 6, 4)], [drawn(3, 6, 6, 4, seed=2)]
    pairs = {
        "divergence": (divergence(t, t, 3.0), divergence(t, s, 3.0)),
        "features": (feature_distance(a, a), feature_distance(a, b)),
        "relations": (relation_distance(a, a), relation_distance(a, b)),
        "competition": (1 - symmetric_divergence(t, t, 3.0), 1 - symmetric_divergence(t, s, 3.0)),
    }
    for name, (same, different) in pairs.items():
        assert abs(float(same)) < 1e-3 and float(different) > 0.01, name


def test_features_of_one_direction_are_equal_and_opposite_ones_farthest():
    a = drawn(3, 6, 6, 4)
    assert float(feature_distance([a], [3 * a])) < 1e-3
    np.testing.assert_allclose(feature_distance([a], [-a]), 2.0, rtol=1e-4)


def test_entropies_tell_sure_images_and_varied_batches():
    sure = 50 * tf.eye(4)
    alike = tf.repeat(sure[:1], 4, axis=0)
    unsure = tf.zeros((4, 4))
    assert float(instance_entropy(sure)) < 1e-6 < 1.3 < float(instance_entropy(unsure))
    assert float(negated_batch_entropy(sure)) < -1.3 and abs(float(negated_batch_entropy(alike))) < 1e-6


@pytest.mark.parametrize("distance", [mean_square_distance, gaussian_divergence, euclidean_distance])
def test_statistics_are_at_no_distance_only_from_themselves(distance):
    stored = StoredStatistics(separated("branch_add"))
    variance = np.concatenate([stored_layer(key).required_weight("moving_variance") for key in stored.keys])
    own = tf.stack([tf.zeros(stored.channels), tf.constant(variance)])
    assert abs(float(distance(stored, own))) < 1e-4
    for other in (own + tf.constant([[0.1], [0.01]]), own * 1.3):
        assert float(distance(stored, other)) > 1e-3


def stored_layer(key: str):
    return separated("branch_add").layers[key]


@pytest.mark.parametrize("name", ["branch_add", "depthwise", "depthwise_multiplier"])
def test_the_layerwise_loss_is_the_mean_over_inputs_drawn_from_the_statistics(name):
    teacher = separated(name)
    student = student_of(folded(name))
    assert float(LayerwiseLoss(teacher, student)()) < 1e-9
    changed = {}
    random = np.random.default_rng(3)
    for variable in student.trained:
        variable.assign_add(tf.constant(random.normal(size=variable.shape), tf.float32))
    result, wanted = student.result(), 0.0
    loss = LayerwiseLoss(teacher, student)
    for key, term in loss._terms.items():
        ours, theirs = result.layers[key], folded(name).layers[key]
        layout = find_layout(ours)
        taps = kernel_of(ours).shape[: layout.rank]
        channels = teacher.specs[teacher.first_calls()[key].inputs[0]].shape[-1]
        mean, variance = channel_moments(term, layout.kind, channels, taps)
        x = mean + np.sqrt(variance) * random.normal(size=(20_000, *taps, channels))
        difference = apply(ours, x) - apply(theirs, x)
        changed[key] = float(np.mean(np.square(difference)))
        wanted += changed[key]
    assert len(changed) >= 2
    np.testing.assert_allclose(float(loss()), wanted, rtol=0.05)


def channel_moments(term, kind: str, channels: int, taps: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance per input channel, out of the rows (or columns) of a term."""
    count = int(np.prod(taps))
    if kind == "depthwise":
        return tuple(values[0].reshape(channels, -1)[:, 0] for values in (term.mean, term.variance))
    return tuple(values.reshape(count, channels)[0] for values in (term.mean, term.variance))


def apply(layer, x: np.ndarray) -> np.ndarray:
    """The layer at a place whose patch is x (n, *taps, channels)."""
    operation, kernel = layer.operation, kernel_of(layer)
    bias = layer.weight("bias")
    if isinstance(operation, keras.layers.DepthwiseConv2D):
        y = np.einsum("nhwc,hwcm->ncm", x, kernel).reshape(len(x), -1)
    else:
        y = x.reshape(len(x), -1) @ kernel.reshape(-1, kernel.shape[-1])
    return y if bias is None else y + bias


# Judge ------------------------------------------------------------------------------------------------------------------


def test_one_student_is_better_only_where_the_same_inputs_say_so():
    random = np.random.default_rng(2)
    hard = random.uniform(0, 2, 256)  # how hard an input is: for all students alike
    assert is_better([hard - 0.01 - 0.01 * random.random(256)], [hard]), "a gain on every input, far below their spread"
    assert not is_better([hard], [hard])
    chance = [is_better([hard + 0.1 * random.normal(size=256)], [hard]) for _ in range(200)]
    assert 0.1 < np.mean(chance) < 0.22, "one standard error: 16 %"
    assert not is_better([np.full(9, np.inf)], [hard[:9]]) and is_better([hard[:9]], [np.full(9, np.inf)])
    assert is_better([np.array([0.1])], [np.array([0.2])])


def test_a_gain_on_one_kind_of_inputs_makes_up_for_no_loss_on_another():
    hard = np.random.default_rng(2).uniform(0, 2, 64)
    shift = 0.01 * np.random.default_rng(3).normal(size=64)
    gains, loses, stays = hard - 0.2, hard + 0.1 + shift, hard + shift
    assert is_better([gains, stays], [hard, hard])
    assert not is_better([gains, loses], [hard, hard]) and not is_better([loses, gains], [hard, hard])


# Images -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "ends"), [((8, 8, 3), (-1, 1)), ((7, 10, 1), (0, 255)), ((96, 72, 3), (0, 1))])
def test_a_generator_makes_pictures_of_any_size_within_the_range(shape, ends):
    options = ImageGenerator(latent=6, width=16, conditional=True)
    network = build_generator(shape, ends, options, classes=4, seed=1)
    z, labels = draw_noise(8, 6, 4, tf.constant([1, 2]))
    images = network([z, labels], training=True).numpy()
    assert images.shape == (8, *shape) and ends[0] <= images.min() < images.max() <= ends[1]
    assert images.std() > 0.1 * (ends[1] - ends[0])
    again = build_generator(shape, ends, options, classes=4, seed=1)
    np.testing.assert_array_equal(again([z, labels], training=True), images)
    other = network([z, (labels + 1) % 4], training=True).numpy()
    assert np.abs(other - images).max() > 0, "it reads the class"


def test_batches_show_every_image_once_before_any_again():
    pool = Pool([np.arange(12, dtype=np.float32)[:, None]], np.arange(12, dtype=np.int32))
    batches = Batches(pool, 5, views=False, seed=3)
    shown = np.concatenate([batches.at(number).inputs[0].numpy().ravel() for number in range(12)])
    for epoch in shown.reshape(5, 12):
        assert sorted(epoch) == list(range(12))
    assert not np.array_equal(shown[:12], shown[12:24])
    batch = Batches(pool, 5, views=False, seed=3).at(7)
    np.testing.assert_array_equal(batch.inputs[0].numpy().ravel(), shown[35:40])
    np.testing.assert_array_equal(batch.labels, shown[35:40])


# Options ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Distillation(steps=0), "steps is 0; give a whole number of at least 1"),
        (lambda: Distillation(images=3), "images is 3; give MatchedImages"),
        (lambda: Distillation(optimizer="adamw"), "optimizer is 'adamw'; choose one of 'adam', 'sgd'"),
        (lambda: Comparison(logits=0.0), "all weights of the comparison are 0"),
        (lambda: Comparison(temperature=0), "temperature is 0; give a number above 0"),
        (lambda: Distillation(compare=Comparison(labels=1.0)), "compare.labels is 1.0, but these images .* no classes"),
        (lambda: ImageGenerator(labels=1.0), "labels is 1.0, but the generator is given no classes"),
        (lambda: InvertedImages(total_variation=-1), "total_variation is -1; give a number of at least 0"),
        (lambda: MatchedImages(images=1), "images is 1; give a whole number of at least 8"),
        (lambda: Thresholds(), "neither of sparsity and strength came; give one"),
        (lambda: Thresholds(sparsity=1.0), "sparsity is 1.0; give the part of zeros, above 0 and below 1"),
        (lambda: Distillation(thresholds=0.5), "thresholds is 0.5; give Thresholds"),
        (lambda: get_method("gdqf"), "method is 'gdqf'; did you mean 'gdfq'"),
    ],
)
def test_wrong_options_are_told(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_each_method_has_its_own_settings_and_those_of_its_paper():
    assert {"deep_inversion", "akd", "gdfq", "zaq", "ours+akd", "ours+deep_inversion"} <= METHODS.keys()
    for name, method in METHODS.items():
        assert get_method(name) is method.cpu and method.paper.steps > method.cpu.steps, name
    for name in ("akd", "deep_inversion"):
        ours, theirs = METHODS[f"ours+{name}"].cpu, METHODS[name].cpu
        assert ours.compare.layers > 0 == theirs.compare.layers
        assert dataclasses.replace(ours, compare=theirs.compare) == theirs
