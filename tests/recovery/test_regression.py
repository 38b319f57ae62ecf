"""feature_regression: networks recover, zeros stay zeros, kernels stay on grids, and nothing gets worse."""

import dataclasses
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from tiny_models import (
    QUICK,
    block,
    build,
    discrepancy,
    each,
    head,
    image,
    outputs_of,
    random_inputs,
    randomized,
    traced_if,
)

from tfdatafree import (
    Prune,
    Quantize,
    Recipe,
    compress,
    feature_regression,
    fold_batchnorm,
    generate_images,
    output_discrepancy,
)
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.recovery import train as core
from tfdatafree.recovery.blocks import cut_into_blocks
from tfdatafree.recovery.features import feature_pairs, feature_tensors
from tfdatafree.recovery.reestimate_batchnorm import reestimate_batchnorm
from tfdatafree.recovery.straight_through import straight_through
from tfdatafree.recovery.views import View

pytestmark = pytest.mark.slow

IMAGES = procedural_images(48, (8, 8, 3), -1, 1, seed=3)
STEPS, FEW = 60, 4


@pytest.fixture(scope="module", autouse=True)
def few_checks() -> Iterator[None]:
    """Held-out images judge the student five times, not twenty: that takes longer than the steps between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "_CHECKS", 5)
        yield


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {
        key: kernel_of(layer)
        for key, layer in separate(Graph.from_keras(model)).graph.layers.items()
        if find_layout(layer)
    }


def pruned(model: keras.Model, part: float = 0.5) -> keras.Model:
    """A copy with the smallest part of each kernel zero."""
    student = keras.models.clone_model(model)
    student.set_weights(model.get_weights())
    for variable in student.weights:
        if "kernel" in variable.name:
            values = np.asarray(variable)
            variable.assign(np.where(np.abs(values) >= np.quantile(np.abs(values), part), values, 0))
    return student


def regressed(student, teacher, images=IMAGES, *, steps=STEPS, **options):
    with traced_if(steps):
        return feature_regression(student, teacher, images, steps=steps, verbose=0, **options)


# What comes back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, mode",
    [("depthwise", "network"), ("branch_add", "blocks")],
)
def test_a_pruned_model_comes_closer_on_inputs_that_it_did_not_learn_from(name, mode):
    teacher = build(name)
    student = pruned(teacher)
    before = [model.get_weights() for model in (student, teacher)]
    result = regressed(student, teacher, mode=mode)
    other = procedural_images(32, (8, 8, 3), -1, 1, seed=77)
    assert discrepancy(result.model, teacher, other) < 0.75 * discrepancy(student, teacher, other)
    assert result.after < result.before and len(result.loss) == STEPS * len(result.steps)
    for key, kernel in kernels(result.model).items():
        np.testing.assert_array_equal(kernel == 0, kernels(student)[key] == 0, err_msg=key)
    assert [w.shape for w in result.model.get_weights()] == [w.shape for w in student.get_weights()]
    for model, weights in zip((student, teacher), before, strict=True):
        for old, new in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


# Each kind of kernel, of sharing, of place of a BatchNorm, of inputs and outputs, and what else has weights.
TAUGHT = [
    "separable", "grouped", "conv_transpose", "conv1d", "shared_layer", "batchnorm_before_same_conv",
    "batchnorm_on_another_axis", "prelu", "dict_inputs", "mixed_float16", "dead_channels",
]  # fmt: skip


@each(TAUGHT)
def test_every_kind_of_kernel_can_be_trained(name):
    teacher = build(name)
    images = random_inputs(teacher, 8)
    student = keras.models.clone_model(teacher)
    student.set_weights([w * 1.2 for w in teacher.get_weights()])
    # TensorFlow has the gradient of a grouped convolution on CPUs for traced functions only.
    result = (
        feature_regression(student, teacher, images, steps=3, verbose=0)
        if name == "grouped"
        else regressed(student, teacher, images, steps=3)
    )
    assert result.after <= result.before
    assert all(np.isfinite(y).all() for y in outputs_of(result.model, images))


def test_the_loss_is_equation_2():
    teacher = build("plain")
    student = pruned(teacher)
    result = regressed(student, teacher, steps=1, batch_size=36, flip=False, reestimate=False, solve=False)
    rows = np.random.default_rng(0).permutation(48)[12:]
    expected = []
    for name in ("a_bn", "b_bn", "head"):
        f, g = (
            np.asarray(keras.Model(m.inputs, m.get_layer(name).output)(IMAGES[rows]), np.float64)
            for m in (teacher, student)
        )
        expected.append(np.linalg.norm(f / np.linalg.norm(f) - g / np.linalg.norm(g)))
    np.testing.assert_allclose(result.loss[0], np.mean(expected), rtol=1e-4)


def test_a_student_without_error_stays():
    teacher = build("plain")
    result = regressed(teacher, teacher, steps=FEW)
    assert result.before == result.after == 0


def test_it_is_never_worse_than_the_start():
    teacher = build("plain")
    student = keras.models.clone_model(teacher)
    student.set_weights([w * (1 + 1e-5) for w in teacher.get_weights()])
    result = regressed(student, teacher, learning_rate=1.0, steps=5)
    assert result.after <= result.before
    rows = np.random.default_rng(0).permutation(48)[:12]
    np.testing.assert_allclose(output_discrepancy(result.model, teacher, IMAGES[rows]), result.after, rtol=1e-2)


def test_the_seed_decides_the_result():
    teacher = build("plain")
    first, again, other = (regressed(pruned(teacher), teacher, steps=2, seed=seed).model for seed in (0, 0, 1))
    same = [np.array_equal(a, b) for a, b in zip(first.get_weights(), again.get_weights(), strict=True)]
    assert all(same)
    assert any(not np.array_equal(a, b) for a, b in zip(first.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("name", ["batchnorm_preactivation", "batchnorm_at_the_input"])
def test_batchnorms_without_a_convolution_are_compared_with_the_layers_that_folding_made(name):
    teacher = build(name)
    images = procedural_images(48, teacher.input_shape[1:], -1, 1, seed=3)
    student = compress(
        teacher, Recipe(quantize=Quantize(weight_bits=4), generate=QUICK), input_range=(-1, 1), verbose=0
    )
    assert not regressed(student, teacher, images, steps=0).kept


# Masks and grids --------------------------------------------------------------------------------------------------------


def test_masks_can_be_given():
    teacher = build("plain")
    student = pruned(teacher)
    free = regressed(student, teacher, masks={}, steps=FEW)
    assert all((kernel != 0).all() for kernel in kernels(free.model).values())
    mask = np.ones((3, 3, 3, 4), bool)
    mask[0] = False
    result = kernels(regressed(student, teacher, masks={"a_conv": mask}, steps=FEW).model)
    assert (result["a_conv"][0] == 0).all() and (result["a_conv"][1:] != 0).all() and (result["b_conv"] != 0).all()


def test_kernels_stay_on_their_grids():
    teacher = build("plain")
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    grids = {}
    for name in ("a_conv", "b_conv"):
        kernel = np.asarray(student.get_layer(name).kernel)
        scale = np.abs(kernel).max(axis=(0, 1, 2)) / 3
        grids[name] = Quantizer(scale, 0, 3, channel_axis=3, narrow_range=True)
        student.get_layer(name).kernel.assign(grids[name](kernel))
    result = regressed(student, teacher, grids=grids, masks={}, steps=100)
    assert result.after < 0.8 * result.before
    moved = 0
    for name, grid in grids.items():
        kernel = np.asarray(result.model.get_layer(name).kernel)
        np.testing.assert_array_equal(kernel, grid(kernel))
        moved += np.count_nonzero(kernel != np.asarray(student.get_layer(name).kernel))
    assert moved > 0, "integers changed"


def test_a_simulated_model_learns_through_its_quantizers():
    teacher = build("plain")
    recipe = Recipe(quantize=Quantize(weight_bits=4, activation_bits=4), generate=QUICK)
    student = compress(teacher, recipe, input_range=(-1, 1), verbose=0)
    result = regressed(student, teacher, masks={})
    assert result.after < result.before
    classes = [type(layer).__name__ for layer in result.model.layers]
    assert classes == [type(layer).__name__ for layer in student.model.layers] and "Quantization" in classes


def test_integer_kernels_of_a_compressed_model_stay_on_their_grids_and_their_zeros_may_move():
    teacher = build("plain")
    recipe = Recipe(quantize=Quantize(weight_bits=4, rounding="nearest", bias_correction=False), generate=QUICK)
    student = compress(teacher, recipe, input_range=(-1, 1), verbose=0)
    result = regressed(student, teacher, steps=150, learning_rate=1.0)
    assert result.after < 0.9 * result.before and set(student.weight_grids) == {"a_conv", "b_conv", "head"}
    before, after = kernels(student.model), kernels(result.model)
    for name, grid in student.weight_grids.items():
        settled = result.compressed.weight_grids[name]
        np.testing.assert_array_equal(before[name], grid(before[name]))
        np.testing.assert_array_equal(after[name], settled(after[name]))
        assert dataclasses.replace(settled, scale=grid.scale) == grid, "as many bits"
        moved = np.abs(settled.quantize(after[name]).astype(int) - grid.quantize(before[name]))
        assert moved.max() <= 2, "rounding was wrong by less than one step, and steps are not far from what they were"
    assert any(((before[name] == 0) & (after[name] != 0)).any() for name in before)
    free = kernels(regressed(student, teacher, steps=5, grids={}).model)
    assert any((free[name] != grid(free[name])).any() for name, grid in student.weight_grids.items())


def test_zeros_of_a_model_that_was_pruned_and_rounded_stay():
    teacher = build("plain")
    recipe = Recipe(
        prune=Prune(sparsity=0.5, method="energy", images=8), quantize=Quantize(weight_bits=4), generate=QUICK
    )
    student = compress(teacher, recipe, input_range=(-1, 1), verbose=0)
    after = kernels(regressed(student, teacher, steps=FEW).model)
    for name, before in kernels(student.model).items():
        assert (after[name][before == 0] == 0).all()


def test_a_kernel_with_scales_along_two_axes_does_not_change_and_has_a_reason():
    x = image()
    y = L.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="deep")(x)
    teacher = randomized(keras.Model(x, head(L.ReLU()(block(y, 4, "a")))))
    student = compress(
        teacher, Recipe(quantize=Quantize(weight_bits=4), generate=QUICK), input_range=(-1, 1), verbose=0
    )
    result = regressed(student, teacher, steps=FEW)
    assert student.weight_grids["deep"] is None and student.weight_grids["a_conv"] is not None
    assert result.kept == {"deep": "its kernel's scales do not run along a single axis"}
    np.testing.assert_array_equal(kernels(result.model)["deep"], kernels(student.model)["deep"])


def test_straight_through_is_the_grid_with_the_gradient_of_clipping():
    grid = Quantizer(0.5, 0, 3)
    x = tf.constant([-9.0, -0.3, 0.2, 0.3, 9.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = straight_through(x, grid)
    np.testing.assert_array_equal(y, grid(x.numpy()))
    np.testing.assert_array_equal(tape.gradient(y, x), [0, 1, 1, 1, 0])


# Steps ---------------------------------------------------------------------------------------------------------------


def test_small_channels_learn_in_small_steps():
    teacher = fold_batchnorm(build("plain")).model
    first = next(layer for layer in teacher.layers if layer.weights)
    for variable in first.weights:
        variable.assign(np.array(variable) * np.array([1e-4, 1, 1, 1]))
    student = keras.models.clone_model(teacher)
    student.set_weights(
        [w if w.ndim == 1 else w * (np.arange(w.size) % 3 > 0).reshape(w.shape) for w in teacher.get_weights()]
    )
    result = regressed(student, teacher, steps=FEW, flip=False, solve=False, learning_rate=0.2)
    assert result.steps["network"] > 0
    before, after = kernels(student)[first.name], kernels(result.model)[first.name]
    size = np.sqrt((before**2).mean((0, 1, 2)))
    moved = np.abs(after - before).max((0, 1, 2))
    assert size[0] < 1e-2 * size[1] and (moved > 0).all() and (moved < 0.2 * size).all()


# BatchNorms -----------------------------------------------------------------------------------------------------------


def test_reestimated_batchnorms_put_out_the_teachers_moments():
    teacher = separate(Graph.from_keras(build("branch_add"))).graph
    student = separate(Graph.from_keras(pruned(build("branch_add"), 0.6))).graph
    moved = reestimate_batchnorm(student, teacher, [tf.constant(IMAGES)])

    def moments(graph):
        found = {}
        for node, live in graph.walk([tf.constant(IMAGES)]):
            if is_batchnorm(graph.layer_of(node)):
                y = np.asarray(live[node.output], np.float64)
                found[node.name] = y.mean((0, 1, 2)), y.std((0, 1, 2))
        return found

    wanted, found, before = moments(teacher), moments(moved), moments(student)
    for name in wanted:
        for at in (0, 1):
            np.testing.assert_allclose(found[name][at], wanted[name][at], rtol=1e-2, atol=2e-3)
        assert np.abs(before[name][1] - wanted[name][1]).max() > 0.02, "pruning moved them"


def test_folded_students_are_compared_after_the_batchnorm():
    teacher = build("plain")
    folded = fold_batchnorm(teacher).model
    assert regressed(folded, teacher, steps=1).before < 1e-5
    student = pruned(folded)
    found = regressed(student, teacher)
    assert found.after < 0.75 * found.before
    a, b = (feature_tensors(separate(Graph.from_keras(model)).graph) for model in (folded, teacher))
    assert (a["a_conv"], b["a_conv"]) == ("a_conv", "a_bn")


# Blocks ---------------------------------------------------------------------------------------------------------------


def test_blocks_end_where_one_tensor_passes_on():
    graph = separate(Graph.from_keras(build("branch_add"))).graph
    pairs, _ = feature_pairs(graph, graph)
    blocks = cut_into_blocks(graph, graph, pairs)
    assert [[node.name for node in part.nodes] for part, _ in blocks] == [
        ["a_conv", "a_bn"],
        ["a_relu", "b_conv", "b_bn", "b_relu", "c_conv", "c_bn", "add"],
        ["relu", "pool", "head"],
    ]
    x = IMAGES[:2]
    for part, _ in blocks:
        (x,) = part.predict([x])
    np.testing.assert_allclose(x, graph.predict([IMAGES[:2]])[0], rtol=1e-5)


def test_a_layer_of_several_blocks_does_not_change_and_has_a_reason():
    x = image()
    conv = L.Conv2D(3, 3, padding="same", name="conv")
    teacher = randomized(keras.Model(x, head(L.ReLU()(conv(block(conv(x), 3, "a"))))))
    student = pruned(teacher)
    result = regressed(student, teacher, mode="blocks", steps=5)
    assert result.kept == {"conv": "called in several blocks"}
    np.testing.assert_array_equal(result.model.get_layer("conv").kernel, student.get_layer("conv").kernel)


# Refusals -------------------------------------------------------------------------------------------------------------


def test_wrong_options_are_refused():
    teacher = build("plain")
    for options, message in (
        ({"mode": "layers"}, "mode is 'layers'; choose 'network' or 'blocks'"),
        ({"steps": -1}, "steps is -1; give a whole number of at least 0"),
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"images": IMAGES[:1]}, "images are 1; give at least 2"),
        ({"images": IMAGES[..., 1:]}, r"images for 'image' has shape .*give \(n, 8, 8, 3\)"),
        ({"masks": {"pool": np.ones(3)}}, "masks are for pool; the layers with kernels are a_conv, b_conv, head"),
        ({"masks": {"head": np.ones(3)}}, r"masks for 'head' have shape \(3,\); the kernel's is \(6, 5\)"),
        ({"grids": {"pool": None}}, "grids are for pool"),
    ):
        with pytest.raises(ValueError, match=message):
            regressed(teacher, teacher, **options)
    with pytest.raises(ValueError, match="layers are compared by name"):
        regressed(keras.Model(x := image(), L.Dense(5, name="z")(L.Flatten()(x))), teacher)
    other = keras.Model(x := image(), head(block(x, 3, "a")))
    assert "another shape" in regressed(other, teacher, steps=1).kept["a_conv"]


def test_generated_images_can_be_given():
    teacher = build("plain")
    images = generate_images(teacher, 16, input_range=(-1, 1), steps=2, verbose=0)
    result = regressed(pruned(teacher), teacher, images, steps=5)
    assert result.after < result.before


# Training ---------------------------------------------------------------------------------------------------------------


def test_views_of_images_are_mirrored_and_moved():
    x = np.arange(2 * 16 * 16, dtype=np.float32).reshape(2, 16, 16, 1)
    view = View(2, np.random.default_rng(0))
    view.moves = np.array([[0.125, 0.0], [-0.125, 0.0]])
    view.mirrored = np.array([False, True])
    viewed = view.of(x)
    np.testing.assert_array_equal(viewed[0, :14, 2:], x[0, 2:, :14])
    np.testing.assert_array_equal(viewed[0, 15, 2:], x[0, 13, :14])  # reflected at the border
    np.testing.assert_array_equal(viewed[1], x[1, :, ::-1])
    vectors = np.ones((2, 5), np.float32)
    assert view.of(vectors) is vectors


def test_steps_without_success_are_undone_and_become_smaller(monkeypatch):
    teacher = build("plain")
    student = keras.models.clone_model(teacher)
    random = np.random.default_rng(0)
    student.set_weights([w * (1 + 1e-3 * random.standard_normal(w.shape)) for w in teacher.get_weights()])
    options = {"solve": False, "reestimate": False, "learning_rate": 1.0, "steps": 80}
    original = core._Trainer.step
    rates = []

    def noted(self, a, b, rate, step, steps):
        rates.append(rate)
        return original(self, a, b, 300 * rate, step, steps)  # far too long at first

    monkeypatch.setattr(core._Trainer, "step", noted)
    result = regressed(student, teacher, **options)
    assert result.after <= result.before
    assert rates[0] == 4 * rates[len(rates) // 2] or rates[0] == 16 * rates[len(rates) // 2]
