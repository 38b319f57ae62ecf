"""evaluate: the figures are those of their definitions, whatever form the data have; data that do not fit are told."""

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers as L
from tiny_models import randomized

from tfdatafree.cli import main
from tfdatafree.compare import compare
from tfdatafree.demo import MODEL_PATH, load_demo
from tfdatafree.errors import MissingPackageError
from tfdatafree.evaluate import evaluate
from tfdatafree.numerics.metrics import in_top_k

pytestmark = pytest.mark.slow
CLASSES = 7


@pytest.fixture(scope="module")
def classifier() -> keras.Model:
    """(4, 4, 3) -> 7 classes."""
    x = keras.Input((4, 4, 3))
    return randomized(keras.Model(x, L.Softmax()(L.Dense(CLASSES)(L.Flatten()(x)))))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, 4, 4, 3), dtype=np.uint8)


def real(pixels: np.ndarray) -> np.ndarray:
    return (-1 + pixels.astype(np.float32) * np.float32(2 / 255)).astype(np.float32)


@pytest.fixture(scope="module")
def labels(classifier, pixels) -> np.ndarray:
    """Mostly what the model says."""
    said = classifier.predict(real(pixels), verbose=0).argmax(-1)
    return np.where(np.arange(70) % 4 == 0, (said + 1) % CLASSES, said)


# Figures ----------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(1, 6))
def test_top_k_counts_the_first_of_equal_scores_as_argmax_does(seed, k):
    random = np.random.default_rng(seed)
    scores, labels = random.integers(0, 4, (20, 6)), random.integers(0, 6, 20)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(in_top_k(scores, labels, k), (order == labels[:, None]).any(axis=1))
    np.testing.assert_array_equal(in_top_k(scores, labels, 1), scores.argmax(-1) == labels)


def test_accuracy_is_the_same_for_every_form_of_the_data(classifier, pixels, labels, tmp_path):
    x = real(pixels)
    names = [f"class {name}" for name in "abcdefg"]
    for at, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (tmp_path / "val" / names[label]).mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(tmp_path / "val" / names[label] / f"{at}.png", image, scale=False)
    np.savez(tmp_path / "x.npz", x=x, y=labels)
    np.savez(tmp_path / "pixels.npz", images=pixels, labels=labels[:, None])
    wanted = np.mean(labels == classifier.predict(x, verbose=0).argmax(-1))
    assert 0.5 < wanted < 0.8
    dataset = tf.data.Dataset.from_tensor_slices((x, labels))
    for data, options in (
        ((x, labels), {}),
        ((x, keras.utils.to_categorical(labels, CLASSES)), {}),
        (dataset, {}),
        (dataset.batch(32), {}),
        (tmp_path / "x.npz", {}),
        (tmp_path / "pixels.npz", {"scale": (-1, 1)}),
        (tmp_path / "val", {"scale": (-1, 1)}),
        (tmp_path / "val", {"scale": (-1, 1), "classes": names}),
    ):
        result = evaluate(classifier, data, **options)
        assert result.n == 70 and result["top-1"] == wanted < result["top-5"] <= 1, data
        (top, _) = next(iter(result.outputs.values()))
        assert top.low < wanted < top.high
    turned = evaluate(classifier, tmp_path / "val", scale=(-1, 1), classes=names[::-1])
    assert turned["top-1"] != wanted, "the names' order is the labels'"


def test_a_file_is_measured_and_agrees_as_compare_says(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, images, truth = load_demo()
    assert main(["compress", str(MODEL_PATH), "-o", "digits.tflite", "--quiet"]) == 0
    np.savez("digits.npz", x=images, y=truth)
    flags = ["--data=digits.npz", f"--reference={MODEL_PATH}", "--json=figures.json"]
    capsys.readouterr()
    assert main(["evaluate", "digits.tflite", *flags]) == 0
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    ((_, found),) = figures["outputs"].items()
    assert found["agreement"] == compare(MODEL_PATH, "digits.tflite", data="digits.npz").outputs[0].agreement
    assert f"{100 * found['top-1']:.2f} %" in printed and figures["n"] == len(images)
    right = model.predict(images, verbose=0).argmax(-1) == truth
    assert evaluate(model, "digits.npz")["top-1"] == right.mean()
    chosen = np.arange(10) * len(images) // 10  # at equal distances
    assert evaluate(model, "digits.npz", n=10)["top-1"] == right[chosen].mean()


def test_maps_have_pixels_and_iou():
    x = keras.Input((6, 6, 2))
    model = randomized(keras.Model(x, L.Softmax()(L.Conv2D(3, 1)(x))))
    inputs = np.random.default_rng(0).normal(size=(5, 6, 6, 2)).astype(np.float32)
    said = model.predict(inputs, verbose=0).argmax(-1)
    truth = np.where(np.random.default_rng(1).random(said.shape) < 0.3, (said + 1) % 3, said)
    unknown = truth.copy()
    unknown[:, 0] = 255
    for labels, options, counted in ((truth, {}, slice(0, 6)), (unknown, {"ignore_label": 255}, slice(1, 6))):
        a, b = said[:, counted], truth[:, counted]
        ious = [np.sum((a == c) & (b == c)) / np.sum((a == c) | (b == c)) for c in range(3)]
        result = evaluate(model, (inputs, labels), **options)
        assert result["pixel accuracy"] == np.mean(a == b)
        assert result["mean IoU"] == pytest.approx(np.mean(ious), rel=1e-5)
    with pytest.raises(ValueError, match="a label is 255, but output .* has 3 classes, 0 to 2; .*ignore_label"):
        evaluate(model, (inputs, unknown))


def test_values_of_the_outputs_shape_are_compared_one_by_one():
    x = keras.Input((3,))
    probability = randomized(keras.Model(x, L.Dense(1, activation="sigmoid")(x)))
    value = randomized(keras.Model(x, L.Activation("tanh")(L.Dense(2)(x))))
    inputs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    truth = np.random.default_rng(1).integers(0, 2, 50)
    said = probability.predict(inputs, verbose=0)[:, 0]
    assert evaluate(probability, (inputs, truth))["binary accuracy"] == np.mean((said >= 0.5) == truth)
    wanted = np.random.default_rng(2).normal(size=(50, 2))
    result = evaluate(value, (inputs, wanted))
    error = value.predict(inputs, verbose=0) - wanted
    assert result["mean absolute error"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert result["root mean squared error"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)


def test_outputs_get_the_labels_of_their_names():
    x = keras.Input((3,))
    model = randomized(keras.Model(x, [L.Dense(4, name="kind")(x), L.Dense(2, name="place")(x)]))
    inputs = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    labels = {"kind": np.zeros(9, np.int64), "place": np.ones((9, 2))}
    result = evaluate(model, tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(4))
    assert set(result.outputs) == {"kind", "place"} and "output 'place'" in str(result)
    assert evaluate(model, [(inputs, {"kind": labels["kind"]})]).outputs.keys() == {"kind"}
    with pytest.raises(ValueError, match="has 2 outputs, and the labels do not say whose they are"):
        evaluate(model, (inputs, labels["kind"]))


# What does not fit ------------------------------------------------------------------------------------------------------


def test_data_that_do_not_fit_are_told(classifier, pixels, labels, tmp_path):
    x = real(pixels)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "short.npz", x=x, y=labels[:3])
    for name in ("1", "2", "10", *"3456"):
        (tmp_path / "numbers" / name).mkdir(parents=True)
        keras.utils.save_img(tmp_path / "numbers" / name / "a.png", pixels[0], scale=False)
    (tmp_path / "two" / "a").mkdir(parents=True)
    (tmp_path / "two" / "b").mkdir()
    keras.utils.save_img(tmp_path / "two" / "a" / "a.png", pixels[0], scale=False)
    for data, options, message in (
        (tmp_path / "x.npy", {}, "there is nothing to measure: the data have no labels, and there is no reference"),
        (tmp_path / "short.npz", {}, "holds 70 inputs and 3 labels; store one label per input"),
        (tmp_path / "x.npy", {"scale": (-1, 1)}, "scale is for 8-bit pixels, but .* holds float32"),
        (
            tmp_path / "numbers",
            {"scale": (0, 1)},
            "numbers whose order as text .* is not that of the numbers; give classes",
        ),
        (tmp_path / "two", {"scale": (0, 1)}, "2 class folders, and the model has 7 classes; give classes"),
        (tmp_path / "two", {"scale": (0, 1), "classes": ["a"]}, "has the folders b, which classes lack"),
        ((x, labels + 5), {}, "a label is .*, but output .* has 7 classes, 0 to 6"),
        ((x, np.zeros((70, 3, 4))), {}, r"labels have shape \(70, 3, 4\).* for detectors \(mAP\), decode the outputs"),
        ((x[:, :2], labels), {}, r"has shape \(70, 2, 4, 3\); give \(n, 4, 4, 3\)"),
        ((x, labels), {"n": 0}, "n is 0; give a whole number of at least 1"),
        ((x, labels), {"scale": (1, 1)}, r"scale is \(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(classifier, data, **options)
    assert evaluate(classifier, tmp_path / "x.npy", reference=classifier)["agreement"] == 1


def test_a_prepared_dataset_needs_its_package(classifier, tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(MissingPackageError, match="prepared by TensorFlow Datasets, which is not installed; run: pip"):
        evaluate(classifier, tmp_path, scale=(0, 1))
