"""The integer file of a recovered network: it is what the model simulates, with as many bits, and nothing else has changed."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import (
    QUICK,
    block,
    build,
    fresh,
    head,
    image,
    outputs_of,
    random_inputs,
    randomized,
    traced_if,
    without_metadata,
)

from tfdatafree import (
    ExportError,
    Prune,
    Quantize,
    Recipe,
    Rule,
    Search,
    UnsupportedModelError,
    compress,
    feature_regression,
    output_discrepancy,
)
from tfdatafree.export.verify import compare_tensors
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of
from tfdatafree.report.reproduce import python_text
from tfdatafree.tflite.flatbuffer import File

pytestmark = pytest.mark.slow

IMAGES = procedural_images(24, (8, 8, 3), -1, 1, seed=3)
STEPS = 3  # of training: some integers move
W4 = Recipe(quantize=Quantize(weight_bits=4, int4=True, rounding="nearest", bias_correction=False), generate=QUICK)
PRUNED = Recipe(prune=Prune(sparsity=0.5, method="energy", images=8), quantize=Quantize(weight_bits=4), generate=QUICK)
RECIPES = {
    "int8": Recipe(generate=QUICK),
    "int4": W4,
    "int16x8": Recipe(quantize=Quantize(weight_bits=4, activation_bits=16), generate=QUICK),
    "pruned": PRUNED,
    "searched": Recipe(policy=Search(size=0.99, images=4), quantize=Quantize(rounding="nearest"), generate=QUICK),
    "float edges": Recipe(quantize=Quantize(edge_dtype="float32"), generate=QUICK),
    "ruled": Recipe(rules=(Rule("b_conv", weight_bits=4), Rule("head", keep_float=True)), generate=QUICK),
}
CASES = [
    *(("branch_add", name) for name in ("int4", "pruned", "ruled")),
    *(("plain", name) for name in ("int16x8", "searched", "float edges")),
    # Operations of several operators, whose inner tensors have ranges that are measured; other layouts; other edges.
    ("normalization", "int8"), ("depthwise", "int4"), ("shared_layer", "int4"), ("two_outputs", "int8"), ("uint8_input", "int8"),
]  # fmt: skip
# These are trained after they were solved. For the file it is all one where weights come from, and solving takes less time.
TRAINED = {("branch_add", "int4"), ("branch_add", "pruned")}
QUICKLY = {("branch_add", "int4"), ("two_outputs", "int8")}
cases = pytest.mark.parametrize(
    "name,recipe", [case if case in QUICKLY else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)


def regression(student, teacher, images=IMAGES, *, steps, **options):
    with traced_if(steps):
        return feature_regression(student, teacher, images, steps=steps, verbose=0, **options)


@functools.cache
def student_of(name: str, recipe: str = "int4", **options):
    ends = (0, 255) if name == "uint8_input" else (-1, 1)
    return compress(build(name), RECIPES[recipe], input_range=ends, verbose=0, **options)


def images_of(name: str) -> list[np.ndarray]:
    return random_inputs(build(name), 12) if name == "uint8_input" else [IMAGES] * len(build(name).inputs)


@functools.cache
def recovered(name: str, recipe: str = "int4", seed: int = 0):
    images = dict(zip(Graph.from_keras(build(name)).inputs, images_of(name), strict=True))
    steps = STEPS if (name, recipe) in TRAINED else 0
    return regression(student_of(name, recipe), build(name), images, steps=steps, seed=seed)


def kernels(graph: Graph) -> dict[str, np.ndarray]:
    return {key: kernel_of(layer) for key, layer in graph.layers.items() if find_layout(layer)}


@cases
def test_the_file_is_what_the_model_simulates(name, recipe):
    result = recovered(name, recipe).compressed
    # Other weights may give the very same results.
    same = without_metadata(result.tflite) == without_metadata(student_of(name, recipe).tflite)
    assert not same or recovered(name, recipe).after == recovered(name, recipe).before
    inputs = images_of(name)
    # Each layer, for the inputs that it has in the file: within one integer, and mostly the same.
    file = File.parse(result.tflite)
    by_name = {file.name(i): i for i in range(len(file.tensors))}
    by_name |= dict(
        zip([*result.built.graph.inputs, *result.built.graph.outputs], [*file.inputs, *file.outputs], strict=True)
    )
    if result.report.integer_only and file.dtype(file.inputs[0]) != "float32":
        grids = {
            t: grid for t, grid in result.built.grids.items() if t in by_name and file.quantizer(by_name[t]) == grid
        }
        checks = compare_tensors(
            result.tflite,
            result.built.graph,
            result.built.graph,
            grids,
            by_name,
            [array[:4].astype(np.float32) for array in inputs],
        )
        bound = {"int16x8": 4}.get(recipe, 1)
        several_operators = name == "normalization"  # simulated as one
        assert max(check.lsb for check in checks.values()) <= bound or several_operators
    # All layers after one another.
    expected, predicted = (
        [values] if isinstance(values, np.ndarray) else list(values)
        for values in (outputs_of(recovered(name, recipe).model, inputs), result.predict(inputs))
    )
    for a, b in zip(expected, predicted, strict=True):
        assert np.abs(a - b).max() < 0.06 * np.ptp(a)


@cases
def test_every_tensor_has_its_type_and_place_and_activations_have_their_grids(name, recipe):
    before, after = (File.parse(c.tflite) for c in (student_of(name, recipe), recovered(name, recipe).compressed))
    assert len(before.tensors) == len(after.tensors)
    for index, (old, new) in enumerate(zip(before.tensors, after.tensors, strict=True)):
        assert (before.name(index), before.dtype(index), before.shape(index)) == (
            after.name(index), after.dtype(index), after.shape(index)
        )  # fmt: skip
        for of in ("scale", "zeroPoint"):
            values = [None if t.quantization is None else getattr(t.quantization, of) for t in (old, new)]
            if of == "scale" and before.constant(index) is not None:
                values = [np.shape(value) for value in values]  # one along the same channels, but another
            np.testing.assert_array_equal(*values, err_msg=f"{before.name(index)} {of}")
    same = [student_of(name, recipe).built.grids, recovered(name, recipe).compressed.built.grids]
    assert same[0] == same[1]


@cases
def test_the_file_is_as_large_and_the_report_describes_it(name, recipe):
    student, result = student_of(name, recipe), recovered(name, recipe).compressed
    assert abs(len(result.tflite) - len(student.tflite)) <= 64, "vectors that are equal are stored once"
    assert result.report.bytes == len(result.tflite)
    assert [row.name for row in result.report.layers] == [row.name for row in student.report.layers]
    sqnr = [[row.sqnr_db for row in c.report.layers] for c in (student, result)]
    assert (sqnr[0] != sqnr[1]) == (without_metadata(result.tflite) != without_metadata(student.tflite))
    assert "Output Discrepancy" in result.report.notes["feature regression"]
    assert result.report.before_recovery == student.report.outputs
    assert all(verdict.figure in str(result.report) for verdict in (student.report.verdict, result.report.verdict))
    assert result.recipe == student.recipe and result.replay == student.replay


def test_weights_in_the_file_are_those_that_were_trained(monkeypatch):
    student, teacher = student_of("branch_add"), build("branch_add")
    result = recovered("branch_add")
    with monkeypatch.context() as patch:  # the same training, of which no file is made
        patch.setattr("tfdatafree.compressed.write", refuse)
        without_file = regression(student, teacher, IMAGES, steps=STEPS)
    trained, written = (Graph.from_keras(model).layers for model in (without_file.model, result.model))
    moved = 0
    for key, grid in result.compressed.weight_grids.items():
        np.testing.assert_array_equal(kernel_of(trained[key]), kernel_of(written[key]))
        np.testing.assert_array_equal(kernel_of(written[key]), grid(kernel_of(written[key])))
        np.testing.assert_allclose(trained[key].weight("bias"), written[key].weight("bias"), atol=1e-2)
        assert dataclasses.replace(grid, scale=student.weight_grids[key].scale) == student.weight_grids[key]
        moved += np.count_nonzero(kernel_of(written[key]) != kernels(student.built.graph)[key])
    file = File.parse(result.compressed.tflite)
    assert moved > 0 and "int4" in {file.dtype(i) for i in range(len(file.tensors))}
    rows = np.random.default_rng(0).permutation(len(IMAGES))[:6]
    # After `after` was measured, only biases are rounded, to 32 bits.
    np.testing.assert_allclose(output_discrepancy(without_file.model, teacher, IMAGES[rows]), result.after, rtol=1e-4)


def test_grids_that_are_given_are_kept():
    student, teacher = student_of("branch_add"), build("branch_add")
    result = regression(student, teacher, IMAGES, grids=student.weight_grids, masks={}, steps=STEPS)
    assert result.compressed is None and result.after < result.before
    for key, kernel in kernels(Graph.from_keras(result.model)).items():
        np.testing.assert_array_equal(kernel, student.weight_grids[key](kernel))


def test_zeros_stay_zero_in_the_file():
    student, result = student_of("branch_add", "pruned"), recovered("branch_add", "pruned").compressed
    assert result.report.zeros >= student.report.zeros >= 0.4
    before, after = (kernels(c.built.graph) for c in (student, result))
    for key, kernel in before.items():
        assert (after[key][kernel == 0] == 0).all()
    assert any((after[key] != before[key]).any() for key in before)


def test_the_seed_decides_the_bytes_and_the_student_does_not_change():
    student, content = student_of("branch_add"), student_of("branch_add").tflite
    weights, held = [np.array(w) for w in student.model.get_weights()], dict(student.built.graph.layers)
    again, other = (
        regression(student, build("branch_add"), IMAGES, steps=STEPS, seed=seed).compressed for seed in (0, 1)
    )
    assert recovered("branch_add").compressed.tflite == again.tflite != other.tflite
    assert student.tflite == content and "feature regression" not in student.report.notes
    assert held == student.built.graph.layers
    for old, new in zip(weights, student.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_recovered_network_can_be_recovered_again():
    first = recovered("branch_add")
    again = regression(first.compressed, build("branch_add"), IMAGES, steps=3)
    assert abs(again.before - first.after) < 0.3 * first.before and again.compressed.tflite
    assert again.compressed.built.grids == first.compressed.built.grids


def test_there_is_no_file_where_the_student_has_none():
    teacher = build("plain")
    simulated = Recipe(quantize=Quantize(weight_bits=4, activation_bits=4), generate=QUICK)
    student = compress(teacher, simulated, input_range=(-1, 1), verbose=0)
    result = regression(student, teacher, IMAGES, steps=3)
    assert result.compressed.built.grids == student.built.grids
    assert result.model is result.compressed.model and result.after <= result.before
    with pytest.raises(ExportError, match="there is no integer file"):
        _ = result.compressed.tflite
    float_file = compress(teacher, Recipe(quantize=None), input_range=(-1, 1), verbose=0)
    for student, options in ((teacher, {}), (float_file, {}), (student_of("plain"), {"grids": {}})):
        assert regression(student, teacher, IMAGES, steps=0, **options).compressed is None


def refuse(*_, **__):
    raise ExportError("no room")


def test_the_model_is_returned_where_the_file_cannot_be_written(monkeypatch):
    student = student_of("plain")
    monkeypatch.setattr("tfdatafree.compressed.write", refuse)
    result = regression(student, build("plain"), IMAGES, steps=3)
    assert result.compressed is None and result.kept["plain"] == "no file was written: no room"
    assert result.after <= result.before and outputs_of(result.model, [IMAGES])[0].shape == (24, 5)


def test_kernels_without_a_single_grid_keep_their_integers():
    x = image()
    y = L.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="deep")(x)
    teacher = randomized(keras.Model(x, head(L.ReLU()(block(y, 4, "a")))))
    recipe = dataclasses.replace(W4, rules=(Rule("deep", weight_bits=8),))
    student = compress(teacher, recipe, input_range=(-1, 1), verbose=0)
    result = regression(student, teacher, IMAGES, steps=STEPS).compressed
    before, after = (kernels(c.built.graph) for c in (student, result))
    np.testing.assert_array_equal(before["deep"], after["deep"])
    assert (before["a_conv"] != after["a_conv"]).any() and student.weight_grids["deep"] is None


def test_scales_that_were_raised_for_a_bias_are_raised_again_and_their_layer_learns():
    """32 bits hold a bias of up to 2^30 steps of input times kernel: beyond, the kernel's scale is raised."""
    teacher = fresh("plain")
    scale = np.array([1, 1, 1e-9, 1, 1], np.float32)
    teacher.get_layer("head").set_weights(
        [np.array(w) * scale if w.ndim > 1 else np.array(w) + 1 for w in teacher.get_layer("head").weights]
    )
    student = compress(teacher, W4, input_range=(-1, 1), verbose=0)
    assert "raised" in student.report.notes["head"]
    grid = student.weight_grids["head"]
    assert grid.scale[2] > np.abs(np.array(teacher.get_layer("head").kernel)).max(axis=0)[2] / 7
    result = regression(student, teacher, IMAGES, steps=STEPS).compressed
    before, after = (kernels(c.built.graph)["head"] for c in (student, result))
    assert (before != after).any()
    np.testing.assert_array_equal(after, result.weight_grids["head"](after))
    others = result.weight_grids["head"].scale[[0, 1, 3, 4]] / grid.scale[[0, 1, 3, 4]]
    assert result.weight_grids["head"].scale[2] > 0.9 * grid.scale[2] and (others > 0.5).all() and (others < 2).all()


def test_a_target_gets_its_file():
    recipe = Recipe(quantize=Quantize(weight_bits=8), generate=QUICK)
    student = compress(build("branch_add"), recipe, input_range=(-1, 1), target="ethos-u55", verbose=0)
    expected = student.report
    student = dataclasses.replace(student, report=dataclasses.replace(expected, on_target=None, bytes=1, zeros=None))
    result = regression(student, build("branch_add"), IMAGES, steps=0).compressed
    assert result.report.on_target is not None and str(result.report.on_target) == str(expected.on_target)
    assert abs(result.report.bytes - expected.bytes) <= 64 and abs(result.report.zeros - expected.zeros) < 0.1


def test_given_inputs_verify_the_file_again():
    given = procedural_images(8, (8, 8, 3), -1, 1, seed=9)
    student = compress(build("plain"), W4, representative_data=given, input_range=(-1, 1), verbose=0)
    result = regression(student, build("plain"), IMAGES, steps=0).compressed
    assert result.report.compared == 8 and "8 given inputs" in str(result.report)
    assert result.built.grids == student.built.grids


def test_the_page_says_how_it_was_made():
    result = recovered("branch_add").compressed
    program = python_text(result.recipe, result.report.call)
    compile(program, "program", "exec")
    assert "feature_regression(compressed, teacher, images)" in program and "recovered.compressed.save" in program
    assert "feature_regression" not in python_text(result.recipe, student_of("branch_add").report.call)


# Images of another size -----------------------------------------------------------------------------------------------


def test_images_may_be_smaller_and_the_file_has_the_models_size():
    teacher, small = build("branch_add"), procedural_images(24, (6, 6, 3), -1, 1, seed=3)
    result = regression(student_of("branch_add"), teacher, small, steps=STEPS)
    assert result.after < result.before and result.model.input_shape == (None, 8, 8, 3)
    assert result.compressed.built.grids == student_of("branch_add").built.grids
    blocks = regression(result.model, teacher, small, mode="blocks", steps=3)
    assert blocks.after <= blocks.before


def test_a_layer_that_needs_the_models_size_is_named():
    teacher = build("flatten_dense")
    with pytest.raises(UnsupportedModelError, match=r"'\w+' \(Dense\).*\(6, 6, 3\), only on \(8, 8, 3\)"):
        regression(teacher, teacher, IMAGES[:, :6, :6], steps=1)
    y = L.AveragePooling2D(6, name="wide")(block(x := image(), 4, "a"))
    teacher = randomized(keras.Model(x, head(y)))
    with pytest.raises(UnsupportedModelError, match=r"'wide' \(AveragePooling2D\).*nothing is left of the image"):
        regression(teacher, teacher, IMAGES[:, :5, :5], steps=1)
