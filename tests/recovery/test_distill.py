"""distill(): zeros and grids stay, nothing gets worse, the same seed gives the same bytes, and a killed run continues."""

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import QUICK, build, fresh, untraced, without_metadata

from tfdatafree import (
    METHODS,
    Comparison,
    Distillation,
    ImageGenerator,
    InvertedImages,
    MatchedImages,
    Prune,
    Quantize,
    Recipe,
    Recover,
    Thresholds,
    UnsupportedModelError,
    compress,
    distill,
    feature_regression,
    generate_images,
)
from tfdatafree.cli import main
from tfdatafree.demo import MODEL_PATH
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.model.kernels import kernel_of
from tfdatafree.recovery import recover
from tfdatafree.recovery.distillation import images, loop
from tfdatafree.recovery.distillation import recover as by_recipe
from tfdatafree.recovery.distillation.held_out import HeldOut
from tfdatafree.recovery.distillation.student_loss import StudentLoss
from tfdatafree.recovery.distillation.trainer import Trainer
from tfdatafree.report.reproduce import python_text
from tfdatafree.tflite.flatbuffer import File

pytestmark = pytest.mark.slow

IMAGES = procedural_images(32, (8, 8, 3), -1, 1, seed=3)
PRUNED_W4 = Recipe(
    prune=Prune(sparsity=0.5, method="energy", images=8),
    quantize=Quantize(weight_bits=4, rounding="nearest"),
    generate=QUICK,
)
# Enough steps for some integers to move, and few that are taken without tracing.
LONG = Distillation(compare=Comparison(features=1.0), steps=60, batch_size=8, learning_rate=0.5)
OWN = dataclasses.replace(LONG, steps=4)
PRUNING = dataclasses.replace(OWN, thresholds=Thresholds(sparsity=0.75))
GENERATOR = ImageGenerator(
    latent=8, width=8, conditional=True, warm_up=1, student_steps=2, labels=1.0, statistics=0.1, adversary=1.0
)
GENERATED = Distillation(
    images=GENERATOR,
    compare=Comparison(temperature=3.0, labels=0.1),
    steps=4, batch_size=8, held_out=8,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Few steps are not worth tracing, and few checks are enough. What images are matched to is another file's subject."""
    with pytest.MonkeyPatch.context() as patch, untraced():
        patch.setattr(loop, "_CHECKS", 2)
        patch.setattr(images, "generate_images", quickly_matched)
        yield


def quickly_matched(*args, **options):
    return generate_images(*args, **{**options, "steps": 2})


@functools.cache
def student():
    return compress(build("branch_add"), PRUNED_W4, input_range=(-1, 1), verbose=0)


def pruned(name: str) -> keras.Model:
    """The model with its BatchNorms, and the smaller part of each kernel zero."""
    model = fresh(name)
    model.set_weights(
        [np.where(np.abs(w) < np.quantile(np.abs(w), 0.6), 0, w) if w.ndim > 1 else w for w in model.get_weights()]
    )
    return model


@functools.cache
def distilled():
    with traced():
        return distill(student(), build("branch_add"), LONG, images=IMAGES, verbose=0)


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """Within it functions are compiled, as users run them."""
    tf.config.run_functions_eagerly(False)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(True)


def test_zeros_stay_and_the_file_holds_the_integers_of_the_new_grids():
    before, result = student(), distilled()
    assert result.after < result.before and result.best_step > 0 and result.kept == {}
    written = result.compressed
    graph, start = written.built.graph, before.built.graph
    moved = 0
    for key, grid in written.weight_grids.items():
        kernel, old = kernel_of(graph.layers[key]), kernel_of(start.layers[key])
        np.testing.assert_array_equal(grid(kernel), kernel)
        assert not kernel[old == 0].any() and (old == 0).mean() > 0.2, key
        assert grid.bits == before.weight_grids[key].bits
        moved += not np.array_equal(grid.quantize(kernel), before.weight_grids[key].quantize(old))
    assert moved, "some integers are others"
    # Activations have new scales and the same zero points; inputs keep both.
    old_grids, new_grids = before.built.grids, written.built.grids
    assert new_grids.keys() == old_grids.keys()
    assert all(new_grids[tensor].zero_point == grid.zero_point for tensor, grid in old_grids.items())
    assert any(new_grids[tensor].scale != grid.scale for tensor, grid in old_grids.items())
    assert all(new_grids[tensor] == old_grids[tensor] for tensor in graph.inputs)
    file = File.parse(written.tflite)
    assert {file.dtype(index) for index in (*file.inputs, *file.outputs)} == {"int8"}
    found, wanted = written.predict(IMAGES[:8]), np.asarray(written.model(IMAGES[:8], training=False))
    assert np.abs(found - wanted).max() <= 2 * max(grid.scale for grid in new_grids.values())
    note = written.report.notes["distillation"]
    found = dict(result.judged)[result.best_step]
    assert note == f"step {result.best_step}: discrepancy {result.before:.4g} -> {found:.4g} on held-out inputs"
    assert "distill(compressed, teacher)" in python_text(written.recipe, written.report.call)


def test_the_same_seed_gives_the_same_bytes_another_seed_others_and_models_stay():
    teacher = fresh("branch_add")
    weights = [np.array(w) for w in teacher.get_weights()]
    options = dataclasses.replace(OWN, learning_rate=0.2)
    once, again = (distill(student(), teacher, options, images=IMAGES, verbose=0) for _ in range(2))
    assert once.best_step > 0 and again.compressed.tflite == once.compressed.tflite != student().tflite
    np.testing.assert_array_equal(again.loss, once.loss)
    for old, new in zip(weights, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    other = distill(student(), teacher, options, images=IMAGES, seed=5, verbose=0)
    assert not np.array_equal(other.loss, again.loss)


@pytest.mark.parametrize("kind", ["pool", "generator", "thresholds"])
def test_a_killed_run_continues_to_the_same_bytes(kind, tmp_path, monkeypatch):
    # Only of the first a file is written: what a file holds does not depend on where images come from.
    trainee, teacher = (student(), build("branch_add")) if kind == "pool" else (pruned("plain"), build("plain"))
    options = {"pool": OWN, "generator": GENERATED, "thresholds": PRUNING}[kind]
    given = {"input_range": (-1, 1)} if kind == "generator" else {"images": IMAGES}
    whole = distill(trainee, teacher, options, **given, verbose=0)
    path, original = tmp_path / "run.npz", Trainer.step

    def killed(trainer, number, rate):
        if number == options.steps // 2 + 1:
            raise KeyboardInterrupt
        return original(trainer, number, rate)

    monkeypatch.setattr(Trainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        distill(trainee, teacher, options, **given, path=path, verbose=0)
    steps = []
    monkeypatch.setattr(
        Trainer, "step", lambda trainer, number, rate: steps.append(number) or original(trainer, number, rate)
    )
    continued = distill(trainee, teacher, options, **given, path=path, verbose=0)
    assert steps[0] == options.steps // 2, "it begins where the checkpoint was written"
    np.testing.assert_array_equal(continued.loss, whole.loss)
    np.testing.assert_array_equal(continued.judged, whole.judged)
    for ours, theirs in zip(continued.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert kind != "pool" or continued.compressed.tflite == whole.compressed.tflite
    with pytest.raises(ValueError, match="was made from another model or with other options"):
        distill(trainee, teacher, dataclasses.replace(options, batch_size=7), **given, path=path, verbose=0)
    if kind == "thresholds":
        with pytest.raises(ValueError, match="was made from another model or with other options"):
            distill(other_weights("plain"), other_weights("plain"), options, **given, path=path, verbose=0)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".npz"] * len(list(tmp_path.iterdir()))


def test_each_step_is_traced_once_and_the_loss_falls(monkeypatch):
    traces, original = [], StudentLoss.__call__
    monkeypatch.setattr(StudentLoss, "__call__", lambda *args: traces.append(1) or original(*args))
    start = pruned("plain")
    with traced():
        images = quickly_matched(build("plain"), 32, input_range=(-1, 1), verbose=0)
        result = distill(start, build("plain"), LONG, images=images, verbose=0)
    assert len(traces) == 1 and len(result.loss) <= 60
    assert result.loss[-10:].mean() < 0.8 * result.loss[:5].mean() and result.after < 0.9 * result.before
    assert result.compressed is None
    for ours, theirs in zip(result.model.get_weights(), start.get_weights(), strict=True):
        assert ours.ndim < 2 or not ours[theirs == 0].any()


def test_where_nothing_is_better_steps_become_smaller_and_the_student_is_returned(monkeypatch):
    values, rates, original = iter(range(1, 100)), [], Trainer.step
    monkeypatch.setattr(loop, "_CHECKS", 8)
    monkeypatch.setattr(
        Trainer, "step", lambda trainer, number, rate: rates.append(rate) or original(trainer, number, rate)
    )
    monkeypatch.setattr(
        "tfdatafree.recovery.distillation.held_out.HeldOut.of",
        lambda self, student: lambda: [np.full(8, next(values), float)],
    )
    result = distill(student(), build("branch_add"), dataclasses.replace(OWN, steps=8), images=IMAGES, verbose=0)
    assert max(rates[2:4]) < max(rates[:2]) / 2 and max(rates[4:]) < max(rates[2:4]) / 2
    assert result.best_step == 0 and result.after == result.before == 1.0
    assert result.compressed is student()


@pytest.mark.parametrize("name", ["branch_add", "depthwise"])
def test_thresholds_make_as_many_zeros_as_asked_and_the_judge_waits_for_them(name):
    teacher = build(name)
    result = distill(fresh(name), teacher, PRUNING, images=IMAGES, input_range=(-1, 1), verbose=0)
    kernels = [
        layer.kernel for layer in result.model.layers if type(layer) in (keras.layers.Conv2D, keras.layers.Dense)
    ]
    zeros = np.concatenate([np.ravel(kernel) == 0 for kernel in kernels])
    assert 0 <= zeros.sum() - 0.75 * zeros.size < 1
    assert result.best_step > 0.6 * PRUNING.steps and result.before == 0 < result.after
    for layer in result.model.layers:
        assert not isinstance(layer, keras.layers.DepthwiseConv2D) or np.all(layer.kernel)


def test_learned_thresholds_rise_with_their_weight_decay():
    found = []
    for strength in (1e-8, 1e3):
        options = dataclasses.replace(OWN, thresholds=Thresholds(strength=strength), steps=12, learning_rate=4.0)
        result = distill(fresh("plain"), build("plain"), options, images=IMAGES, verbose=0)
        found.append(np.mean([np.mean(np.asarray(w) == 0) for w in result.model.get_weights() if w.ndim == 4]))
    assert found[1] > found[0] + 0.02


def test_mixed_precision_changes_a_step_a_little_and_nothing_outside():
    losses = [
        distill(
            student(), build("branch_add"), dataclasses.replace(OWN, mixed_precision=mixed), images=IMAGES, verbose=0
        )
        for mixed in (False, True)
    ]
    exact, rough = (result.loss for result in losses)
    assert rough.dtype == np.float32 and 0 < np.abs(rough[0] - exact[0]) < 0.02 * exact[0]
    assert losses[0].before == losses[1].before, "the judge computes in float32"
    assert keras.config.dtype_policy().name == "float32" == keras.layers.Dense(1).dtype_policy.name
    assert all(layer.dtype_policy.name == "float32" for layer in build("branch_add").layers)


@pytest.mark.parametrize("made", [True, False])
def test_made_up_images_are_judged_by_procedural_ones_and_real_ones_by_a_quarter(made, monkeypatch):
    judges, original = [], HeldOut.__init__
    monkeypatch.setattr(HeldOut, "__init__", lambda self, *args: judges.append(args[1]) or original(self, *args))
    images = IMAGES if not made else quickly_matched(build("branch_add"), 16, input_range=(-1, 1), verbose=0)
    options = dataclasses.replace(OWN, held_out=24, steps=1)
    distill(student(), build("branch_add"), options, images=images, verbose=0)
    ((first, *others),) = judges
    assert len(first[0]) == (4 if made else 8) and [len(kind[0]) for kind in others] == ([24] if made else [])
    if not made:
        assert all(any(np.array_equal(one, other) for other in IMAGES) for one in first[0])


@pytest.mark.parametrize(
    "source", [MatchedImages(images=16, steps=2), InvertedImages(images=10, steps=2, group=8, competition=0.5, l2=0.1)]
)
def test_images_are_made_without_data_and_kept_beside_the_checkpoint(source, tmp_path):
    options = dataclasses.replace(OWN, images=source, steps=2, held_out=8, batchnorm="training", views=True)
    unfolded = pruned("branch_add")
    path = tmp_path / "run.npz"
    result = distill(unfolded, build("branch_add"), options, input_range=(-1, 1), path=path, verbose=0)
    shown = result.images["image"]
    assert shown.shape[1:] == (8, 8, 3) and -1 <= shown.min() < shown.max() <= 1
    assert (tmp_path / "run.images.npz").exists()
    again = distill(unfolded, build("branch_add"), options, input_range=(-1, 1), path=path, verbose=0)
    np.testing.assert_array_equal(again.images["image"], shown)
    for ours, theirs in zip(again.model.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Recipes and the command line -------------------------------------------------------------------------------------------


def test_a_recipe_gives_what_the_functions_give(monkeypatch):
    monkeypatch.setattr(by_recipe, "get_method", lambda name: OWN)
    monkeypatch.setattr(recover, "generate_images", lambda *args, **options: IMAGES)
    asked = Recover(images=16, steps=3, method="distill")
    model = build("branch_add")
    result = compress(model, dataclasses.replace(PRUNED_W4, recover=asked), input_range=(-1, 1), verbose=0)
    solved = feature_regression(student(), model, IMAGES, steps=0, verbose=0).compressed
    by_hand = distill(solved, model, OWN, images=IMAGES, steps=3, verbose=0)
    assert without_metadata(result.tflite) == without_metadata(by_hand.compressed.tflite)
    assert result.report.notes.get("distillation") == by_hand.compressed.report.notes.get("distillation")


@pytest.mark.parametrize(("flag", "wanted"), [("distill", "matched"), ("gdfq", "gdfq")])
def test_the_command_line_names_methods(flag, wanted, tmp_path, monkeypatch):
    asked = {}

    def noted(model, recipe, **options):
        asked["recipe"] = recipe
        raise ValueError("noted")

    monkeypatch.setattr(sys.modules["tfdatafree.compress"], "compress", noted)
    main(["compress", str(MODEL_PATH), "-o", str(tmp_path / "x.tflite"), f"--recover={flag}", "--quiet"])
    assert asked["recipe"].recover == Recover(method="distill", distillation=wanted)
    assert Recipe.from_dict(json.loads(json.dumps(asked["recipe"].to_dict()))) == asked["recipe"]


def test_wrong_recipes_are_told():
    with pytest.raises(ValueError, match="method is 'train'; choose one of 'solve', 'distill', 'reconstruct'"):
        Recover(method="train")
    with pytest.raises(ValueError, match="distillation is 'akt'; did you mean 'akd'"):
        Recover(distillation="akt")


# Errors -----------------------------------------------------------------------------------------------------------------


def test_a_student_of_another_teacher_is_refused():
    with pytest.raises(
        ValueError, match="'plain' is no compressed form of 'branch_add': its kernels point in other directions"
    ):
        distill(build("plain"), other_weights("branch_add"), OWN, images=IMAGES, verbose=0)
    with pytest.raises(ValueError, match="is no compressed form of .* its outputs have the shapes"):
        distill(student(), build("two_outputs"), OWN, images=IMAGES, verbose=0)


def other_weights(name: str) -> keras.Model:
    model = fresh(name)
    random = np.random.default_rng(7)
    model.set_weights([random.normal(size=w.shape) if w.ndim > 1 else w for w in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("name", "method", "text"),
    [
        ("uint8_input", "gdfq", "reads .* uint8, and a generator makes one float picture"),
        ("shared_layer", "akd", "reads .*, and a generator makes one float picture"),
        (
            "no_bias",
            "gdfq",
            "has no BatchNormalization, whose statistics this generator learns from; use the method 'zaq'",
        ),
        ("no_bias", "deep_inversion", "has no BatchNormalization, whose statistics images could be matched to"),
    ],
)
def test_a_model_that_a_method_makes_no_images_for_is_refused(name, method, text):
    ends = (0, 255) if name == "uint8_input" else (-1, 1)
    with pytest.raises(UnsupportedModelError, match=text):
        distill(build(name), build(name), METHODS[method].cpu, input_range=ends, verbose=0)


def test_a_batch_too_large_for_the_memory_is_refused(monkeypatch):
    monkeypatch.setenv("TFDATAFREE_MEMORY_GB", "0.0001")
    with pytest.raises(
        ValueError, match="a step on 8 images would take .* GB of memory, .*; give a smaller batch_size"
    ):
        distill(student(), build("branch_add"), OWN, images=IMAGES, verbose=0)
    monkeypatch.setenv("TFDATAFREE_MEMORY_GB", "1")
    many = dataclasses.replace(OWN, held_out=10**7)
    with pytest.raises(ValueError, match="judging by 10000000 inputs would take .* GB .*; give .* a smaller held_out"):
        distill(student(), build("branch_add"), many, images=IMAGES, verbose=0)
