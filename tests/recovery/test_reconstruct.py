"""reconstruct(): integers move by at most one, zeros stay, no block gets worse, and blocks of one shape share a compiled step."""

import dataclasses
import functools
import json
import sys

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from tiny_models import (
    QUICK,
    block,
    build,
    compressed,
    folded,
    fresh,
    head,
    image,
    random_inputs,
    randomized,
    untraced,
    without_metadata,
)

from tfdatafree import Prune, Quantize, Recipe, Recover, compress, feature_regression, reconstruct
from tfdatafree.cli import main
from tfdatafree.demo import MODEL_PATH
from tfdatafree.export.simulate import insert_quantizers
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.model.kernels import find_layout, kernel_of
from tfdatafree.numerics.affine import activation_quantizer
from tfdatafree.recovery import recover
from tfdatafree.recovery.reconstruction import reconstruct as module
from tfdatafree.recovery.reconstruction import step
from tfdatafree.recovery.reconstruction.blocks import find_blocks
from tfdatafree.recovery.reconstruction.step import Step
from tfdatafree.report.reproduce import python_text

pytestmark = pytest.mark.slow

IMAGES = procedural_images(32, (8, 8, 3), -1, 1, seed=3)
PRUNED_W4 = Recipe(
    prune=Prune(sparsity=0.5, method="energy", images=8),
    quantize=Quantize(weight_bits=4, rounding="nearest"),
    generate=QUICK,
)
STEPS = 40


@functools.cache
def reconstructed():
    """(the network before, what was made of it, the compiled steps)"""
    made: list[Step] = []

    class Noted(Step):
        def __init__(self, parts):
            super().__init__(parts)
            made.append(self)

    student = compressed("branch_add", PRUNED_W4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Step", Noted)
        return student, reconstruct(student, build("branch_add"), IMAGES, steps=STEPS, verbose=0), made


def test_integers_move_by_at_most_one_zeros_stay_and_the_file_holds_them():
    before, result, _ = reconstructed()
    written, moved = result.compressed, 0
    for key, grid in written.weight_grids.items():
        kernel, old = kernel_of(written.built.graph.layers[key]), kernel_of(before.built.graph.layers[key])
        np.testing.assert_array_equal(grid(kernel), kernel)
        assert not kernel[old == 0].any() and (old == 0).mean() > 0.2, key
        steps = np.abs(grid.quantize(kernel).astype(int) - before.weight_grids[key].quantize(old))
        assert grid.bits == 4 and steps.max() <= 1
        moved += int(steps.sum())
    assert moved, "some integers are others"
    old_grids, new_grids = before.built.grids, written.built.grids
    assert all(new_grids[tensor].zero_point == grid.zero_point for tensor, grid in old_grids.items())
    assert any(new_grids[tensor].scale != grid.scale for tensor, grid in old_grids.items())
    assert all(new_grids[tensor] == old_grids[tensor] for tensor in before.built.graph.inputs)
    found, wanted = written.predict(IMAGES[:8]), np.asarray(written.model(IMAGES[:8], training=False))
    assert np.abs(found - wanted).max() <= 2 * max(grid.scale for grid in new_grids.values())
    assert "reconstruct(compressed, teacher, images)" in python_text(written.recipe, written.report.call)
    assert f"{result.before:.4g} -> {result.after:.4g}" in written.report.notes["reconstruction"]


def test_no_block_and_no_result_is_worse_and_some_are_better():
    _, result, _ = reconstructed()
    assert result.after < 0.95 * result.before and result.kept == {}
    assert all(b.after < b.before if b.kept else b.after == b.before for b in result.blocks)
    assert sum(b.kept for b in result.blocks) >= 2


def test_what_harms_is_not_kept(monkeypatch):
    student = compressed("branch_add", PRUNED_W4)
    monkeypatch.setattr(step, "_RATES", dict.fromkeys(step._RATES, 9.0))
    with untraced():
        result = reconstruct(student, build("branch_add"), IMAGES, steps=2, verbose=0)
    assert not any(b.kept for b in result.blocks) and result.after == result.before
    assert result.compressed is student and "was" in result.kept["branch_add"]


def test_the_same_seed_gives_the_same_bytes_another_seed_others_and_models_stay():
    teacher = fresh("branch_add")
    weights = [np.array(w) for w in teacher.get_weights()]
    student, once, _ = reconstructed()
    again = reconstruct(student, teacher, IMAGES, steps=STEPS, verbose=0)
    assert again.compressed.tflite == once.compressed.tflite != student.tflite
    for old, new in zip(weights, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    other = reconstruct(student, teacher, IMAGES, steps=STEPS, seed=1, verbose=0)
    assert other.compressed.tflite != once.compressed.tflite


def test_a_block_that_learned_nothing_is_the_students(monkeypatch):
    monkeypatch.setattr(step, "_RATES", dict.fromkeys(step._RATES, 0.0))
    student, errors, original = compressed("branch_add", PRUNED_W4), [], module._Run._error

    def noted(run, *args, held_out=True):
        errors.append((held_out, original(run, *args, held_out=held_out)))
        return errors[-1][1]

    monkeypatch.setattr(module._Run, "_error", noted)
    with untraced():
        result = reconstruct(student, build("branch_add"), IMAGES, steps=1, verbose=0)
    before, after = (errors[at::3] for at in (0, 2))
    assert len(before) == len(result.blocks) == 3 and not any(b.kept for b in result.blocks)
    np.testing.assert_allclose([error for _, error in after], [error for _, error in before], rtol=1e-5)


# Blocks and compiled steps ----------------------------------------------------------------------------------------------


def two_alike() -> keras.Model:
    """A stem, two residual blocks of one shape, with other weights in each, and a last one that is pooled."""
    x = image()
    y = block(x, 4, "stem")
    for name in ("first", "second", "last"):
        z = L.BatchNormalization(name=f"{name}_bn")(L.Conv2D(4, 3, padding="same", name=f"{name}_conv")(y))
        y = L.ReLU(name=f"{name}_relu")(L.Add(name=f"{name}_add")([y, z]))
    return randomized(keras.Model(x, head(y), name="two_alike"))


def test_blocks_of_one_shape_share_a_step_that_is_traced_once(monkeypatch):
    model, made = two_alike(), []

    class Noted(Step):
        def __call__(self, *args):
            if self not in made:
                made.append(self)
            return super().__call__(*args)

    monkeypatch.setattr(module, "Step", Noted)
    result = reconstruct(
        compress(model, dataclasses.replace(PRUNED_W4, prune=None), input_range=(-1, 1), verbose=0),
        model, IMAGES, steps=3, batch_size=8, verbose=0,
    )  # fmt: skip
    assert len(result.blocks) == 5 and len(made) == 4
    assert [one.traces for one in made] == [1] * 4


@pytest.mark.parametrize(
    "name",
    ["plain", "branch_add", "depthwise", "concatenate", "squeeze_excite", "two_outputs", "shared_layer", "merges"],
)
def test_blocks_one_after_another_compute_what_both_networks_compute(name):
    teacher = folded(name)
    grids = {
        node.output: activation_quantizer(-4, 4, 8) for node in teacher.nodes if find_layout(teacher.layer_of(node))
    }
    student = insert_quantizers(teacher, grids)
    inputs = random_inputs(teacher)
    for graph, own in ((student, "student"), (teacher, "teacher")):
        live = dict(zip(graph.inputs, inputs, strict=True))
        for part in (getattr(pair, own) for pair in find_blocks(student, teacher)):
            live |= dict(zip(part.outputs, part.predict([live[tensor] for tensor in part.inputs]), strict=True))
        for tensor, wanted in zip(graph.outputs, graph.predict(inputs), strict=True):
            np.testing.assert_allclose(live[tensor], wanted, rtol=1e-5, atol=1e-6)


def test_a_chain_is_cut_between_few_layers_and_a_residual_block_stays_whole():
    teacher = folded("branch_add")
    grids = {node.output: activation_quantizer(-4, 4, 8) for node in teacher.nodes if "relu" in node.name}
    outputs = [pair.student.outputs[0] for pair in find_blocks(insert_quantizers(teacher, grids), teacher)]
    assert outputs[:2] == ["a_relu_quantized", "pool"] and len(outputs) == 3


# Recipes and the command line -------------------------------------------------------------------------------------------


def test_a_recipe_gives_what_the_function_gives(monkeypatch):
    monkeypatch.setattr(recover, "generate_images", lambda *args, **options: IMAGES)
    asked = dataclasses.replace(PRUNED_W4, recover=Recover(images=16, steps=2, method="reconstruct"))
    model = build("branch_add")
    with untraced():
        result = compress(model, asked, input_range=(-1, 1), verbose=0)
        solved = feature_regression(compressed("branch_add", PRUNED_W4), model, IMAGES, steps=0, verbose=0).compressed
        by_hand = reconstruct(solved, model, IMAGES, steps=2, verbose=0)
    assert without_metadata(result.tflite) == without_metadata(by_hand.compressed.tflite)
    assert result.report.notes.get("reconstruction", "none").startswith("none") == (by_hand.after == by_hand.before)


def test_what_no_file_holds_is_simulated():
    four = Quantize(weight_bits=4, activation_bits=4, rounding="nearest", ranges="min_max")
    student = compressed("plain", Recipe(quantize=four, generate=QUICK))
    with untraced():
        result = reconstruct(student, build("plain"), IMAGES, steps=4, verbose=0)
    assert result.after <= result.before and result.compressed.built.content is None
    assert all(grid.bits == 4 for grid in result.compressed.built.grids.values())


def test_the_command_line_asks_for_it(tmp_path, monkeypatch):
    asked = {}

    def noted(model, recipe, **options):
        asked["recipe"] = recipe
        raise ValueError("noted")

    monkeypatch.setattr(sys.modules["tfdatafree.compress"], "compress", noted)
    main(["compress", str(MODEL_PATH), "-o", str(tmp_path / "x.tflite"), "--recover=reconstruct", "--quiet"])
    assert asked["recipe"].recover == Recover(method="reconstruct")
    assert Recipe.from_dict(json.loads(json.dumps(asked["recipe"].to_dict()))) == asked["recipe"]


# Errors -----------------------------------------------------------------------------------------------------------------


def test_only_integer_networks_are_reconstructed():
    with pytest.raises(ValueError, match="the student is a Functional; give what compress"):
        reconstruct(build("plain"), build("plain"), IMAGES, verbose=0)
    floats = compressed("plain", "float16")
    with pytest.raises(ValueError, match="the student is in float; give what compress"):
        reconstruct(floats, build("plain"), IMAGES, verbose=0)
    with pytest.raises(ValueError, match="steps is 0"):
        reconstruct(compressed("branch_add", PRUNED_W4), build("branch_add"), IMAGES, steps=0, verbose=0)
