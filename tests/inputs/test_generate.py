"""generate_images: statistics that match, ranges that hold, runs that can be continued."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from tiny_models import block, build, each, head, image, randomized, untraced

import tfdatafree
from tfdatafree import UnsupportedModelError, generate_images
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs import generated_images
from tfdatafree.inputs import matching as matched
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph

RANGE = (-1.0, 1.0)


def generated(name: str | keras.Model, n: int = 8, **options):
    model = build(name) if isinstance(name, str) else name
    options = {"input_range": RANGE, "steps": 12, "verbose": 0, **options}
    # TensorFlow has the gradient of a grouped convolution on CPUs in compiled functions only.
    with untraced() if options["steps"] <= 12 and name != "grouped" else contextlib.nullcontext():
        return generate_images(model, n, **options)


# One model for each kind of BatchNorm, of place that it stands in, of input, and of operation ahead of the last one.
MATCHED = [
    "plain", "depthwise", "depthwise_multiplier", "dilated", "grouped", "conv_transpose", "zero_padding", "prelu",
    "dense_on_pixels", "conv1d", "one_channel", "nested_called_twice", "shared_batchnorm", "batchnorm_unscaled",
    "batchnorm_uncentered", "batchnorm_at_the_input", "batchnorm_of_a_vector", "batchnorm_on_another_axis",
    "batchnorm_is_an_output", "batchnorm_after_dense", "batchnorm_before_flatten_dense", "shared_layer", "two_inputs",
    "dict_inputs", "normalization", "uint8_input", "static_batch", "mixed_float16", "dead_channels",
]  # fmt: skip


def kl(mean, variance, stored_mean, stored_variance):
    ratio = variance / stored_variance
    return np.mean(ratio - 1 - np.log(ratio) + (mean - stored_mean) ** 2 / stored_variance) / 2


# Matching -------------------------------------------------------------------------------------------------------------


@each(MATCHED)
def test_images_come_closer_to_its_statistics_and_stay_in_range(name):
    ends = (0.0, 255.0) if name in ("uint8_input", "rescaling") else RANGE
    found = generated(name, 6, input_range=ends, start="noise", steps=4)
    model = build(name)
    assert [array.shape for array in found.inputs.values()] == [(6, *tensor.shape[1:]) for tensor in model.inputs]
    for array in found.inputs.values():
        assert array.min() >= ends[0] and array.max() <= ends[1]
    assert found.loss.shape == (4, 1) and np.isfinite(found.loss).all()
    keys = {key for key, layer in separate(Graph.from_keras(model)).graph.layers.items() if is_batchnorm(layer)}
    assert set(found.divergence) == keys
    if name != "batchnorm_of_a_vector":  # its input is all that it sees, and noise of six has what statistics it has
        assert found.loss[-1, 0] < found.loss[0, 0]


@pytest.mark.slow
def test_the_divergence_is_that_of_the_images_at_each_batchnorm():
    model = build("plain")
    found = generated(model)
    for layer in ("a", "b"):
        batchnorm = model.get_layer(f"{layer}_bn")
        before = keras.Model(model.inputs, model.get_layer(f"{layer}_conv").output)
        x = before.predict(found.images, verbose=0).astype(np.float64).reshape(-1, batchnorm.moving_mean.shape[0])
        floor = batchnorm.epsilon
        wanted = kl(
            x.mean(0),
            x.var(0) + floor,
            np.asarray(batchnorm.moving_mean),
            np.asarray(batchnorm.moving_variance) + floor,
        )
        np.testing.assert_allclose(found.divergence[f"{layer}_bn"], wanted, rtol=1e-3)
    assert found.mean_divergence < 0.5 * float(found.loss[0, 0]) / 2


def test_a_layer_called_twice_is_matched_by_both_calls_together():
    model = build("nested_called_twice")
    found = generated(model, steps=1)
    graph = separate(Graph.from_keras(model)).graph
    seen = [np.asarray(live[node.inputs[0]]) for node, live in walk(graph, found.images)]
    assert len(seen) == 2
    both = np.concatenate(seen).reshape(-1, seen[0].shape[-1]).astype(np.float64)
    (layer,) = [layer for layer in graph.layers.values() if is_batchnorm(layer)]
    stored = layer.weight("moving_mean"), layer.weight("moving_variance") + layer.operation.epsilon
    wanted = kl(both.mean(0), both.var(0) + layer.operation.epsilon, *stored)
    np.testing.assert_allclose(found.mean_divergence, wanted, rtol=1e-3)


def walk(graph, images):
    """(node, live) of the BatchNorms, their inputs still there."""
    live = {graph.inputs[0]: images}
    for node in graph.nodes:
        live.update(zip(node.outputs, graph.call(node, live), strict=True))
        if is_batchnorm(graph.layer_of(node)):
            yield node, dict(live)


@pytest.mark.slow
def test_the_whole_set_matches_where_batches_need_not():
    each = generated("plain", 12, batch_size=4, steps=40)
    together = generated("plain", 12, batch_size=4, steps=40, statistics="set")
    assert each.loss.shape == together.loss.shape == (40, 3)
    assert together.mean_divergence < 0.05 * together.loss[0].mean() / 2

    def alone(found):
        matcher = matched.Matcher(
            separate(Graph.from_keras(build("plain"))).graph,
            matched.Matching(steps=1, learning_rate=0.1),
            shapes=[(8, 8, 3)],
            ranges=[RANGE],
        )
        return np.mean([list(matcher.divergence([found.images[at : at + 4]], 4).values()) for at in (0, 4, 8)])

    assert alone(together) > 2 * alone(each), "batches are free to differ"
    images = generated("plain", 4, batch_size=4, steps=40, statistics="image")
    alike = generated("plain", 4, batch_size=4, steps=40)
    assert alone_by_image(images) < 0.7 * alone_by_image(alike), "each image by itself comes near"


def alone_by_image(found) -> float:
    """Mean divergence of single images."""
    graph = separate(Graph.from_keras(build("plain"))).graph
    matcher = matched.Matcher(graph, matched.Matching(steps=1, learning_rate=0.1), shapes=[(8, 8, 3)], ranges=[RANGE])
    return np.mean([list(matcher.divergence([image[None]], 1).values()) for image in found.images])


@pytest.mark.slow
def test_batches_of_equal_size_fill_up_and_what_is_over_is_dropped():
    found = generated("plain", 7, batch_size=3, steps=2)
    assert found.images.shape == (7, 8, 8, 3) and found.loss.shape == (2, 3)


@pytest.mark.slow
def test_memory_bounds_the_batch(monkeypatch):
    monkeypatch.setattr(matched, "_BATCH_BYTES", 4 * 5 * 8 * 8 * 32)
    assert 1 < generated("plain", 32, steps=1).loss.shape[1] <= 8
    larger = generated("plain", 32, steps=1, image_size=16)
    assert larger.loss.shape[1] > generated("plain", 32, steps=1).loss.shape[1]


# Terms ----------------------------------------------------------------------------------------------------------------


def variation(x):
    return np.abs(np.diff(x, axis=1)).mean() + np.abs(np.diff(x, axis=2)).mean()


@pytest.mark.slow
def test_total_variation_makes_smooth_images_and_l2_grey_ones():
    plain = generated("plain", start="noise").images
    assert variation(generated("plain", start="noise", total_variation=20.0).images) < 0.9 * variation(plain)
    assert np.square(generated("plain", start="noise", l2=50.0).images).mean() < 0.9 * np.square(plain).mean()


def test_priors_are_added_as_the_formula_says():
    x = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    options = {"n": 4, "start": x, "steps": 1}
    without = generated("plain", **options).loss[0, 0]
    np.testing.assert_allclose(
        generated("plain", **options, total_variation=2.0).loss[0, 0] - without, 2 * variation(x) / 2, rtol=1e-3
    )
    np.testing.assert_allclose(
        generated("plain", **options, l2=3.0).loss[0, 0] - without, 3 * np.square(x / 2).mean(), rtol=1e-3
    )


def with_convolutional_head() -> keras.Model:
    y = L.GlobalAveragePooling2D(keepdims=True)(block(x := image(), 8, "a"))
    return randomized(keras.Model(x, L.Softmax()(L.Reshape((5,))(L.Conv2D(5, 1, name="logits")(y)))))


@pytest.mark.parametrize("name", ["plain", "softmax", "convolutional head"])
@pytest.mark.slow
def test_class_targets_are_what_the_model_then_sees(name):
    model = with_convolutional_head() if name == "convolutional head" else build(name)
    labels = np.arange(8) % 5
    aimed = generated(model, targets=labels, target_weight=5.0, steps=60, learning_rate=0.1)
    given = np.asarray(model(aimed.images)).argmax(-1)
    started = np.asarray(model(generated(model, steps=1).images)).argmax(-1)
    assert (given == labels).mean() > max(0.6, (started == labels).mean())


def test_a_label_for_a_map_of_decisions_is_refused():
    model = randomized(keras.Model(x := image(), L.Conv2D(5, 1)(block(x, 4, "a"))))
    with pytest.raises(ValueError, match=r"one class label for each image, but the model decides for \(8, 8\) places"):
        generated(model, 4, targets=np.zeros(4, int))


@pytest.mark.slow
def test_output_targets_are_approached():
    model = build("plain")
    wanted = np.asarray(model(generated(model, seed=9, steps=1).images))
    distance = lambda found: np.linalg.norm(np.asarray(model(found.images)) - wanted)  # noqa: E731
    assert distance(generated(model, targets=wanted, target_weight=10.0, steps=30)) < 0.5 * distance(generated(model))


@pytest.mark.slow
def test_swing_moves_strided_convolutions_only_and_not_what_is_measured():
    options = {"steps": 3, "start": "noise"}
    assert not np.array_equal(generated("plain", swing=True, **options).images, generated("plain", **options).images)
    model = randomized(keras.Model(x := image(), head(block(x, 4, "a"))))
    np.testing.assert_array_equal(generated(model, swing=True, **options).images, generated(model, **options).images)


# Starts and sizes -----------------------------------------------------------------------------------------------------


def test_no_step_is_no_change_and_a_start_can_be_given():
    x = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    found = generated("plain", 4, start=x, steps=1, learning_rate=1e-6)
    np.testing.assert_allclose(found.images, x, atol=1e-4)
    with pytest.raises(ValueError, match=r"start has shape \(4, 8, 8, 3\); give \(5, 8, 8, 3\)"):
        generated("plain", 5, start=x)


@pytest.mark.parametrize("name", ["plain", "two_inputs"])
@pytest.mark.slow
def test_an_earlier_result_can_be_the_start(name):
    first = generated(name, 4, steps=2)
    further = generated(name, 4, start=first, steps=1, learning_rate=1e-6)
    for key, array in first.inputs.items():
        np.testing.assert_allclose(further.inputs[key], array, atol=1e-4)


@pytest.mark.parametrize(("size", "shape"), [(6, (6, 6)), ((10, 7), (10, 7))])
@pytest.mark.slow
def test_other_sizes_where_all_is_convolution(size, shape):
    found = generated("plain", 4, image_size=size)
    assert found.images.shape == (4, *shape, 3) and found.loss[-1, 0] < found.loss[0, 0]


def test_behind_the_last_batchnorm_anything_may_stand():
    model = randomized(keras.Model(x := image(), L.Dense(5)(L.Flatten()(block(x, 4, "a")))))
    assert generated(model, 4, image_size=6).images.shape == (4, 6, 6, 3)
    with pytest.raises(UnsupportedModelError, match=r"\(Dense\) cannot work on inputs of shape \(6, 6, 3\), only on"):
        generated(model, 4, image_size=6, targets=np.zeros(4, int))


def test_a_size_that_a_layer_cannot_take_is_told():
    x = image()
    y = L.BatchNormalization(name="bn")(L.Dense(6, name="wide")(L.Flatten(name="flat")(x)))
    with pytest.raises(UnsupportedModelError, match=r"'wide' \(Dense\).*\(6, 6, 3\), only on \(8, 8, 3\).*image_size"):
        generated(randomized(keras.Model(x, y)), 4, image_size=6)


def test_an_open_size_is_given_by_image_size():
    x = keras.Input((None, None, 3))
    model = keras.Model(x, L.GlobalAveragePooling2D()(block(x, 4, "a")))
    assert generated(model, 4, image_size=9, steps=1).images.shape == (4, 9, 9, 3)
    with pytest.raises(UnsupportedModelError, match="dynamic shape"):
        generated(model, 4)


# Refusals -------------------------------------------------------------------------------------------------------------


def test_without_batchnorm_the_fallback_is_named():
    with pytest.raises(UnsupportedModelError, match=r"no BatchNormalization.*procedural_images\(n, \(8, 8, 3\)"):
        generated(keras.Model(x := image(), head(L.Conv2D(4, 3)(x))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"statistics": "all"}, "statistics is 'all'; choose 'batch', 'set' or 'image'"),
        ({"start": "photos"}, "start is 'photos'; choose"),
        ({"l2": -1.0}, "l2 is -1.0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"image_size": (3, 3, 3)}, r"image_size is \(3, 3, 3\); give 2 whole numbers"),
        ({"targets": np.zeros(3, int)}, r"give 8 class labels"),
        ({"input_range": (1, 0)}, "low < high"),
        ({"path": "images.png"}, "ends in .npz"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        generated("plain", **options)


# The same bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_model_stays_and_the_seed_decides():
    model = build("branch_add")
    before = model.get_weights()
    first, again, other = (generated(model, seed=seed).images for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(("statistics", "stop"), [("batch", 30), ("set", 31)])
@pytest.mark.slow
def test_a_run_cut_short_goes_on_from_what_it_kept(statistics, stop, tmp_path, monkeypatch):
    options = {"n": 9, "batch_size": 3, "steps": 12, "statistics": statistics}
    whole = generated("plain", **options, path=tmp_path / "whole.npz")
    real, taken, cuts = matched.Matcher.advance, [], [stop]

    def cut(self, state):
        for yielded in real(self, state):
            taken.append(state.done)
            yield yielded
            if state.done in cuts:
                cuts.clear()
                raise KeyboardInterrupt

    monkeypatch.setattr(matched.Matcher, "advance", cut)
    path = tmp_path / "images.npz"
    with pytest.raises(KeyboardInterrupt):
        generated("plain", **options, path=path)
    taken.clear()
    generated("plain", **options, path=path)
    assert taken[0] > 12 and taken[-1] == 36, "finished batches are not made again"
    assert path.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    taken.clear()
    np.testing.assert_array_equal(generated("plain", **options, path=path).images, whole.images)
    assert not taken, "nothing is left to do"


def test_images_of_other_options_are_not_continued(tmp_path):
    path = tmp_path / "images.npz"
    generated("plain", path=path, steps=1)
    for changed in ({"seed": 1}, {"steps": 2}, {"name": "branch_add"}):
        with pytest.raises(ValueError, match="from another model or with other options.*delete it"):
            generated(**{"name": "plain", "path": path, "steps": 1, **changed})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(tfdatafree.LoadError, match="is damaged"):
        generated("plain", path=path, steps=1)


# Files ----------------------------------------------------------------------------------------------------------------


def test_saved_images_can_be_read_and_seen(tmp_path):
    found = generated("plain", 5, steps=1)
    with np.load(found.save(tmp_path / "images.npz")) as file:
        np.testing.assert_array_equal(file["x"], found.images)
    sheet = tf.io.decode_png((found.save(tmp_path / "sheet.png")).read_bytes()).numpy()
    np.testing.assert_array_equal(sheet, found.sheet())
    wanted = np.rint((found.images[4] + 1) / 2 * 255)
    np.testing.assert_allclose(sheet[12:20, 12:20], wanted, atol=1)
    assert sheet.shape == (22, 32, 3) and (sheet[12:20, 22:30] == generated_images._GAP_VALUE).all()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        found.save(tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="choose .npz or .png"):
        found.save(tmp_path / "images.gif")


def test_other_channels_and_signals():
    assert generated("one_channel", 4, steps=1).sheet().shape[-1] == 1
    with pytest.raises(ValueError, match="only .height, width, channels. can be shown"):
        generated("conv1d", 4, steps=1).sheet()
    with pytest.raises(ValueError, match=r"the images are for the 2 inputs \w+, \w+, and one array was wanted"):
        _ = generated("shared_layer", 4, steps=1).images


def test_images_start_where_the_first_statistics_are():
    inputs = keras.Input((8, 8, 1))
    bn = keras.layers.BatchNormalization()
    model = keras.Model(inputs, bn(inputs))
    bn.moving_mean.assign([40.0])
    bn.moving_variance.assign([4.0])
    images = generate_images(model, 8, input_range=(0, 255), steps=1, learning_rate=1e-6, verbose=0).images
    assert abs(images.mean() - 40) < 2 and images.std() < 4


@pytest.mark.parametrize("label", [-1, 99])
def test_labels_that_the_model_does_not_have_are_refused(label):
    with pytest.raises(ValueError, match=rf"targets are from {label} to {label}, but the model has \d+ classes"):
        generate_images(build("plain"), 1, targets=[label], target_weight=1.0, steps=1, verbose=0)


@pytest.mark.parametrize("seed", ["a", 1.5, -1, True, None, 2**63])
def test_seeds_are_whole_numbers(seed):
    with pytest.raises(ValueError, match="seed is .*; give a whole number"):
        generate_images(build("plain"), 1, seed=seed, steps=1, verbose=0)


def test_more_images_than_the_memory_holds_are_refused():
    with pytest.raises(ValueError, match=r"1000000000 inputs of .* would take .* GB of memory.*TFDATAFREE_MEMORY_GB"):
        generate_images(build("plain"), 10**9, verbose=0)
