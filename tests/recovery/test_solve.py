"""solve_in_order: each layer is the least-squares solution for the teacher's output, on the outputs of the layers before it."""

import dataclasses
import weakref

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import build, discrepancy, fresh, head, image, randomized

from tfdatafree import feature_regression, fold_batchnorm
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.measuring.patches import draw_patches
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of, layout_of, output_last
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.recovery import solve as layer_by_layer
from tfdatafree.recovery.features import feature_pairs, nonzero_masks
from tfdatafree.recovery.solve import Constraints, solve_in_order

pytestmark = pytest.mark.slow

IMAGES = procedural_images(64, (8, 8, 3), -1, 1, seed=3)
OTHER = procedural_images(32, (8, 8, 3), -1, 1, seed=77)


def changed(model: keras.Model, change) -> keras.Model:
    student = keras.models.clone_model(model)
    student.set_weights(model.get_weights())
    for variable in student.weights:
        if "kernel" in variable.name:
            variable.assign(change(np.asarray(variable)))
    return student


def pruned(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) >= np.quantile(np.abs(values), 0.5), values, 0)


def solved(
    student, teacher, *, grids=None, latent=None, only=None, seed=0, **options
) -> tuple[Graph, dict[str, Quantizer]]:
    ours, theirs = (separate(Graph.from_keras(model)).graph for model in (student, teacher))
    masks = {} if grids else nonzero_masks(ours)
    inputs = [IMAGES]
    fixed = set() if only is None else ours.layers.keys() - {only}
    constraints = Constraints(masks=masks, grids=grids or {}, latent=latent or {}, fixed=fixed, **options)
    return solve_in_order(ours, theirs, feature_pairs(ours, theirs)[0], (inputs, inputs), constraints, seed=seed)


def far(graph: Graph, teacher: keras.Model) -> float:
    return discrepancy(graph.to_keras(), teacher, OTHER)


@pytest.mark.parametrize(
    "name, folded", [("plain", True), ("branch_add", False), ("depthwise", True), ("separable", False)]
)
def test_pruned_models_come_closer_by_their_kernels_too_and_zeros_stay(name, folded, monkeypatch):
    teacher = fold_batchnorm(build(name)).model if folded else build(name)
    student = changed(teacher, pruned)
    found, _ = solved(student, teacher)
    with monkeypatch.context() as patch:
        patch.setattr(layer_by_layer, "_MOST_GROWTH", 0.0)  # every kernel keeps its weights
        only_means, _ = solved(student, teacher)
    assert far(only_means, teacher) < 0.9 * discrepancy(student, teacher, OTHER)
    assert far(found, teacher) < 0.9 * far(only_means, teacher)
    start = separate(Graph.from_keras(student)).graph
    for key, layer in start.layers.items():
        if find_layout(layer):
            np.testing.assert_array_equal(kernel_of(layer) == 0, kernel_of(found.layers[key]) == 0)


def test_a_student_without_error_stays():
    teacher = build("plain")
    assert far(solved(teacher, teacher)[0], teacher) < 1e-3


def test_outputs_have_the_teachers_means_and_no_more_spread():
    teacher = fold_batchnorm(build("plain")).model
    result = solved(changed(teacher, pruned), teacher)[0].to_keras()
    for name in [layer.name for layer in teacher.layers if layer.weights]:
        a, b = (np.asarray(keras.Model(m.inputs, m.get_layer(name).output)(IMAGES)) for m in (result, teacher))
        rows = tuple(range(a.ndim - 1))
        np.testing.assert_allclose(a.mean(rows), b.mean(rows), atol=0.05 * b.std())
        assert (a.std(rows) / b.std(rows) < 1.1).all()


def test_kernels_stay_on_their_grids_and_are_better_rounded_than_to_nearest():
    teacher = fold_batchnorm(build("plain")).model
    names = [layer.name for layer in teacher.layers if layer.weights]
    grids, latent = {}, {}
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    for name in names:
        kernel = np.asarray(student.get_layer(name).kernel)
        scale = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / 3
        grids[name] = Quantizer(scale, 0, 3, channel_axis=kernel.ndim - 1, narrow_range=True)
        latent[name] = kernel
        student.get_layer(name).kernel.assign(grids[name](kernel))
    off = [discrepancy(student, teacher, OTHER)]
    for new_scales in (False, True):
        result, settled = solved(student, teacher, grids=grids, latent=latent, new_scales=new_scales)
        for name in names:
            kernel = kernel_of(result.layers[name])
            np.testing.assert_array_equal(settled[name](kernel), kernel)
            assert dataclasses.replace(settled[name], scale=grids[name].scale) == grids[name]
            assert new_scales == (settled[name] != grids[name])
        off.append(far(result, teacher))
    assert off[1] < off[0] and off[2] < off[0]


def test_channels_that_a_batchnorm_switches_off_keep_their_weights_and_scales():
    teacher = fresh("plain")
    gamma = np.asarray(teacher.get_layer("a_bn").gamma).copy()
    gamma[1] = 0
    teacher.get_layer("a_bn").gamma.assign(gamma)
    kernel = np.asarray(teacher.get_layer("a_conv").kernel)
    grid = Quantizer(np.abs(kernel).max(axis=(0, 1, 2)) / 3, 0, 3, channel_axis=3, narrow_range=True)
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    student.get_layer("a_conv").kernel.assign(grid(kernel))
    result, settled = solved(student, teacher, grids={"a_conv": grid}, latent={"a_conv": kernel}, new_scales=True)
    after, off = kernel_of(result.layers["a_conv"]), settled["a_conv"]
    np.testing.assert_array_equal(after[..., 1], grid(kernel)[..., 1])
    assert off.scale[1] == grid.scale[1] and (off.scale != grid.scale).any()
    np.testing.assert_array_equal(off(after), after)


def test_a_layer_corrects_the_error_of_the_other_branch_of_its_sum(monkeypatch):
    y = L.Conv2D(4, 3, padding="same", name="a")(x := image())
    teacher = randomized(keras.Model(x, head(L.Add(name="add")([y, L.Conv2D(4, 1, name="c")(y)]))))
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    student.get_layer("a").kernel.assign(1.3 * student.get_layer("a").kernel)

    def off(model: keras.Model) -> float:
        a, b = (np.asarray(keras.Model(m.inputs, m.get_layer("add").output)(IMAGES)) for m in (model, teacher))
        return float(np.linalg.norm(a - b))

    def off_when_solved() -> float:
        return off(solved(student, teacher, only="c")[0].to_keras())

    with_it = off_when_solved()
    monkeypatch.setattr(layer_by_layer, "_find_sums", lambda *graphs: {})
    assert with_it < 0.7 * off_when_solved() and with_it < 0.5 * off(student)


def test_a_layer_is_solved_for_its_sum_with_the_input_itself():
    y = L.Conv2D(3, 1, name="a")(x := image())
    teacher = randomized(keras.Model(x, head(L.Add(name="add")([x, L.Conv2D(3, 1, name="c")(y)]))))
    result, _ = solved(changed(teacher, pruned), teacher)
    assert far(result, teacher) < 0.9 * discrepancy(changed(teacher, pruned), teacher, OTHER)


def test_patches_times_kernel_are_the_outputs_at_their_places():
    for name in ("plain", "depthwise"):
        graph = separate(Graph.from_keras(build(name))).graph
        values = dict(zip(graph.inputs, [IMAGES], strict=True))
        for node, live in graph.walk([IMAGES]):
            values |= {tensor: np.asarray(live[tensor]) for tensor in node.outputs}
        for node in graph.nodes:
            layer = graph.layer_of(node)
            if find_layout(layer) is None:
                continue
            patches, places = draw_patches(values[node.inputs[0]], layer, np.random.default_rng(0), 50)
            _, groups, inputs = patches.shape
            matrix = output_last(kernel_of(layer), layout_of(layer)).reshape(inputs, groups, -1)
            outputs = np.einsum("ngi,igo->ngo", patches, matrix).reshape(50, -1)
            bias = layer.weight("bias")
            wanted = values[node.output][places] - (0 if bias is None else bias)
            np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-5)


def test_the_solved_student_is_returned_where_training_improves_nothing():
    teacher = build("plain")
    student = changed(teacher, pruned)
    with_it, without = (
        feature_regression(student, teacher, IMAGES, steps=1, learning_rate=1e-6, solve=solve, verbose=0)
        for solve in (True, False)
    )
    assert with_it.after < without.after


@pytest.mark.parametrize("value", [0.0, 14.797539, -3e4])
def test_a_layer_that_reads_constants_gives_the_teachers_means(value):
    inputs = image()
    x = L.Conv2D(
        5, 3, padding="valid", kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(value)
    )(inputs)
    teacher = keras.Model(inputs, head(L.Conv2D(40, 1, name="reads_constants")(x)))
    student = changed(teacher, lambda values: np.where(values > 0, values, 0).astype(np.float32))
    result = solved(student, teacher)[0].to_keras()
    a, b = (np.asarray(keras.Model(m.inputs, m.get_layer("reads_constants").output)(IMAGES)) for m in (result, teacher))
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_nothing_is_random_where_all_places_are_measured():
    teacher = build("branch_add")
    student = changed(teacher, pruned)
    first, other = (solved(student, teacher, seed=seed)[0] for seed in (0, 1))
    for key, layer in first.layers.items():
        for a, b in zip(layer.weights, other.layers[key].weights, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("most", [7, 100, 10**9])
def test_all_places_are_measured_once_in_any_parts(most, monkeypatch):
    monkeypatch.setattr(layer_by_layer, "_MOST_VALUES", most)
    parts = list(layer_by_layer._draw_places((3, 4, 5), 1, 9, np.random.default_rng(0)))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), np.indices((3, 4, 5)).reshape(3, -1))
    assert len(parts) == -(-60 // max(1, most // 9))


def test_weights_that_read_next_to_nothing_do_not_grow():
    y = L.DepthwiseConv2D(3, padding="same", name="b")(L.Conv2D(4, 3, padding="same", name="a")(x := image()))
    teacher = randomized(keras.Model(x, head(y)))
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    for variable in (student.get_layer("a").kernel, student.get_layer("a").bias):
        values = np.array(variable)
        values[..., 0] *= 1e-3
        values[..., 1] *= 0.5
        variable.assign(values)
    found, _ = solved(student, teacher, only="b")
    before, after = (np.linalg.norm(kernel[..., 0], axis=(0, 1)) for kernel in (
        kernel_of(separate(Graph.from_keras(student)).graph.layers["b"]), kernel_of(found.layers["b"])
    ))  # fmt: skip
    assert after[0] == before[0] and after[1] > 1.3 * before[1]


def most_alive(depth: int, monkeypatch) -> int:
    """Largest number of tensors that both networks' nodes wrote and that are in memory at once, while layers are solved."""
    x = inputs = keras.Input((8, 8, 3))
    for _ in range(depth):
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x)))
    teacher = randomized(keras.Model(inputs, x))
    written, alive, plain = [], [], Graph.call

    def call(graph, node, live):
        outputs = plain(graph, node, live)
        written.extend(weakref.ref(output) for output in outputs)
        alive.append(sum(reference() is not None for reference in written))
        return outputs

    with monkeypatch.context() as patch:
        patch.setattr(Graph, "call", call)
        solved(changed(teacher, pruned), teacher)
    return max(alive)


def test_what_is_in_memory_does_not_grow_with_depth(monkeypatch):
    assert most_alive(9, monkeypatch) == most_alive(3, monkeypatch)
