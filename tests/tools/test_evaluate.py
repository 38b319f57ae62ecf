"""Tests of tools/evaluate.py: reading labelled sets, running models of both kinds, and the laws of the scores."""

import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from run_tool import run_tool

_TOOL = Path(__file__).resolve().parents[2] / "tools" / "evaluate.py"
_spec = importlib.util.spec_from_file_location("evaluate", _TOOL)
evaluate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(evaluate)

_SHAPE = (4, 5, 3)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, *_SHAPE), dtype=np.uint8)


def _network(ending: str = "none", classes: int = 3) -> keras.Model:
    """Small network from (4, 5, 3) in [-1, 1] to `classes` outputs; `ending` says how the softmax is put there."""
    inputs = keras.Input(_SHAPE, name="image")
    seeded = keras.initializers.GlorotUniform
    x = keras.layers.Conv2D(4, 3, activation="relu", kernel_initializer=seeded(seed=1))(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    fused = "softmax" if ending == "fused" else None
    x = keras.layers.Dense(classes, activation=fused, kernel_initializer=seeded(seed=2), name="classes")(x)
    if ending == "activation":
        x = keras.layers.Activation("softmax")(x)
    elif ending == "layer":
        x = keras.layers.Softmax()(x)
    elif ending == "ops":
        x = keras.ops.softmax(x)
    return keras.Model(inputs, x)


def _int8(model: keras.Model, dtype=tf.int8) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    samples = np.random.default_rng(0).uniform(-1, 1, (32, 1, *_SHAPE)).astype(np.float32)
    converter.representative_dataset = lambda: ([sample] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = dtype
    return converter.convert()


def _to_tf(x: np.ndarray) -> np.ndarray:
    return evaluate.preprocess(x, "tf")


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def _write_folder(folder: Path, images: np.ndarray, labels) -> None:
    folder.mkdir()
    for index, image in enumerate(images):
        (folder / f"{index}.png").write_bytes(_png(image))
    rows = "".join(f"{index}.png,{label}\n" for index, label in enumerate(labels))
    (folder / "labels.csv").write_text("filename,class\n" + rows)


def test_npz_folder_and_zip_hold_the_same_set(tmp_path, images):
    labels = [0, 1, 2, 2, 1, 0]
    np.savez(tmp_path / "set.npz", x=images, y=np.array(labels, np.uint8)[:, np.newaxis])
    _write_folder(tmp_path / "set", images, labels)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in (tmp_path / "set").iterdir():
            archive.write(path, path.name)
    for name in ("set.npz", "set", "set.zip"):
        x, y = evaluate.load_labelled(tmp_path / name)
        assert x.dtype == np.uint8 and y.dtype == np.int64
        np.testing.assert_array_equal(x, images)
        np.testing.assert_array_equal(y, labels)


def test_limit_reaches_every_class_of_a_sorted_set(tmp_path, images):
    np.savez(tmp_path / "set.npz", x=images, y=np.array([0, 0, 1, 1, 2, 2]))
    x, y = evaluate.load_labelled(tmp_path / "set.npz", limit=3)
    np.testing.assert_array_equal(y, [0, 1, 2])
    np.testing.assert_array_equal(x, images[::2])
    assert len(evaluate.load_labelled(tmp_path / "set.npz", limit=100)[1]) == 6
    _write_folder(tmp_path / "set", images, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(evaluate.load_labelled(tmp_path / "set", limit=3)[0], images[::2])
    with pytest.raises(ValueError, match="limit is 0"):
        evaluate.load_labelled(tmp_path / "set.npz", limit=0)


def test_what_is_no_labelled_set_is_told(tmp_path, images):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluate.load_labelled(tmp_path / "nowhere.npz")
    (tmp_path / "text.txt").write_text("no set")
    with pytest.raises(ValueError, match="no labelled set.*labels.csv"):
        evaluate.load_labelled(tmp_path / "text.txt")
    np.savez(tmp_path / "named.npz", x=images, labels=np.zeros(6, int))
    with pytest.raises(ValueError, match="'labels'.*needs the arrays 'x' and 'y'"):
        evaluate.load_labelled(tmp_path / "named.npz")
    np.savez(tmp_path / "short.npz", x=images, y=np.zeros(5, int))
    with pytest.raises(ValueError, match="6 examples and 5 labels"):
        evaluate.load_labelled(tmp_path / "short.npz")
    np.savez(tmp_path / "onehot.npz", x=images, y=np.zeros(6))
    with pytest.raises(ValueError, match="float64.*class indices"):
        evaluate.load_labelled(tmp_path / "onehot.npz")
    _write_folder(tmp_path / "mixed", images, range(6))
    (tmp_path / "mixed" / "3.png").write_bytes(_png(images[3][:2]))
    with pytest.raises(ValueError, match=r"'3.png' is \(2, 5, 3\).*\(4, 5, 3\)"):
        evaluate.load_labelled(tmp_path / "mixed")
    (tmp_path / "mixed" / "3.png").unlink()
    with pytest.raises(ValueError, match="'3.png'.*cannot be read"):
        evaluate.load_labelled(tmp_path / "mixed")
    (tmp_path / "mixed" / "labels.csv").write_text("file,label\na,1\n")
    with pytest.raises(ValueError, match="'file', 'label'.*filename,class"):
        evaluate.load_labelled(tmp_path / "mixed")
    (tmp_path / "mixed" / "labels.csv").unlink()
    with pytest.raises(ValueError, match="no labels.csv"):
        evaluate.load_labelled(tmp_path / "mixed")


def test_presets_map_the_ends_as_they_say():
    ends = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = {"none": (0, 255), "unit": (0, 1), "tf": (-1, 1), "imagenet": (-mean / std, (1 - mean) / std)}
    assert set(expected) == set(evaluate.PRESETS)
    for name, (low, high) in expected.items():
        result = evaluate.preprocess(ends, name)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, np.stack([np.broadcast_to(low, 3), np.broadcast_to(high, 3)]), rtol=1e-6)
    with pytest.raises(ValueError, match="'caffe'.*none, tf, unit, imagenet"):
        evaluate.preprocess(ends, "caffe")
    with pytest.raises(ValueError, match="mean has 2 values for 3 channels"):
        evaluate.normalize(ends, 1, [1, 2], 1)
    with pytest.raises(ValueError, match="must not be 0"):
        evaluate.normalize(ends, 255, 0, [1, 0, 1])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_quantizing_rounds_to_the_nearest_step_and_clips(dtype):
    limits, scale, zero_point = np.iinfo(dtype), 0.25, 0 if dtype == np.int16 else np.iinfo(dtype).min + 3
    inside = scale * (np.arange(limits.min, limits.min + 200) - zero_point)
    for offset in (0.0, 0.49 * scale, -0.49 * scale):
        q = evaluate.quantize((inside + offset).astype(np.float32), dtype, scale, zero_point)
        assert q.dtype == dtype
        np.testing.assert_array_equal(evaluate.dequantize(q, scale, zero_point), inside.astype(np.float32))
    ends = evaluate.quantize(np.float32([-1e9, 1e9]), dtype, scale, zero_point)
    np.testing.assert_array_equal(ends, [limits.min, limits.max])


def test_quantizing_breaks_ties_to_even_before_the_zero_point():
    ties = np.float32([0.5, 1.5, 2.5, -0.5])
    np.testing.assert_array_equal(evaluate.quantize(ties, np.int8, 1.0, -1) + 1, [0, 2, 2, 0])


def test_a_scale_of_zero_means_integers_and_floats_pass():
    x = np.float32([3, 300])
    np.testing.assert_array_equal(evaluate.quantize(x, np.uint8, 0.0, 0), [3, 255])
    np.testing.assert_array_equal(evaluate.dequantize(np.uint8([7]), 0.0, 0), [7])
    np.testing.assert_array_equal(evaluate.quantize(x, np.float32, 0.0, 0), x)


@pytest.mark.slow
def test_predict_of_keras_does_not_depend_on_the_batch(tmp_path, images):
    model = _network()
    model.save(tmp_path / "model.keras")
    expected = model.predict(_to_tf(images), verbose=0)
    for batch in (1, 4, 32):
        result = evaluate.predict(tmp_path / "model.keras", images, batch=batch, preprocess=_to_tf)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(evaluate.predict(model, _to_tf(images)), expected, rtol=1e-5, atol=1e-6)


def test_predict_preprocesses_no_more_than_a_batch_at_a_time(images):
    seen = []

    def prepare(x):
        seen.append(len(x))
        return _to_tf(x)

    evaluate.predict(_network(), images, batch=4, preprocess=prepare)
    assert seen == [4, 2]


@pytest.mark.parametrize("dtype", [tf.int8, tf.uint8])
@pytest.mark.slow
def test_predict_of_an_integer_file_stays_near_the_float_model(tmp_path, images, dtype):
    model = _network()
    content = _int8(model, dtype)
    (tmp_path / "model.tflite").write_bytes(content)
    interpreter = tf.lite.Interpreter(model_content=content)
    assert interpreter.get_input_details()[0]["dtype"] == dtype.as_numpy_dtype
    step = interpreter.get_output_details()[0]["quantization"][0]
    expected = model.predict(_to_tf(images), verbose=0)
    for source in (content, tmp_path / "model.tflite"):
        outputs = evaluate.predict(source, images, batch=4, preprocess=_to_tf)
        assert outputs.dtype == np.float32
        assert np.linalg.norm(outputs - expected) < 0.1 * np.linalg.norm(expected)
        np.testing.assert_allclose(outputs / step, np.rint(outputs / step), atol=1e-3)


def test_predict_fills_up_the_last_batch_of_a_file_with_a_fixed_one(images):
    inputs = keras.Input(batch_shape=(4, *_SHAPE))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    outputs = evaluate.predict(content, images, preprocess=_to_tf)
    np.testing.assert_allclose(outputs, _to_tf(images).mean(axis=(1, 2)), atol=1e-6)


def test_predict_tells_what_it_cannot_run(tmp_path, images):
    with pytest.raises(FileNotFoundError, match="nowhere.tflite"):
        evaluate.predict(tmp_path / "nowhere.tflite", images)
    (tmp_path / "broken.keras").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot open .*broken.keras"):
        evaluate.predict(tmp_path / "broken.keras", images)
    with pytest.raises(ValueError, match="no examples"):
        evaluate.predict(_network(), images[:0])
    with pytest.raises(ValueError, match="batch is 0"):
        evaluate.predict(_network(), images, batch=0)
    inputs = keras.Input(_SHAPE)
    twice = keras.Model(inputs, [keras.layers.ReLU()(inputs), keras.layers.Flatten()(inputs)])
    with pytest.raises(ValueError, match="1 inputs and 2 outputs"):
        evaluate.predict(twice, images)


def test_perfect_labels_score_one_and_shifted_labels_zero():
    outputs = np.random.default_rng(0).normal(size=(20, 5))
    best = outputs.argmax(axis=1)
    assert evaluate.score(best, outputs) == {"n": 20, "top1": 1.0}
    assert evaluate.score((best + 1) % 5, outputs)["top1"] == 0.0
    half = np.where(np.arange(20) < 10, best, (best + 1) % 5)
    assert evaluate.score(half, outputs)["top1"] == 0.5


def test_comparison_follows_its_definition():
    reference = np.random.default_rng(0).normal(size=(20, 5))
    y = reference.argmax(axis=1)
    same = evaluate.score(y, reference, reference)
    assert (same["agreement"], same["relative_error"], same["top1_difference"]) == (1.0, 0.0, 0.0)
    scaled = evaluate.score(y, 1.25 * reference, reference)
    assert scaled["agreement"] == 1.0 and scaled["relative_error"] == pytest.approx(0.25)
    rolled = evaluate.score(y, np.roll(reference, 1, axis=1), reference)
    assert rolled["agreement"] == 0.0 and rolled["top1_difference"] == -1.0 and rolled["reference_top1"] == 1.0
    named = evaluate.score(y, reference, reference, probabilities=True)
    assert "relative_error" not in named and named["relative_error_probabilities"] == 0.0


def test_score_refuses_what_it_cannot_compare():
    outputs = np.zeros((4, 3))
    with pytest.raises(ValueError, match=r"reference is \(4, 2\)"):
        evaluate.score(np.zeros(4, int), outputs, np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"outputs is \(4, 3\) for 5 labels"):
        evaluate.score(np.zeros(5, int), outputs)
    with pytest.raises(ValueError, match="NaN or infinity in 1 examples"):
        evaluate.score(np.zeros(4, int), np.where(np.eye(4, 3, -3), np.nan, outputs))
    with pytest.raises(ValueError, match="Labels run from 0 to 3.*3 classes"):
        evaluate.score(np.arange(4), outputs)


@pytest.mark.parametrize("ending", ["fused", "activation", "layer", "ops"])
@pytest.mark.slow
def test_logits_model_is_the_model_before_its_softmax(images, ending):
    model = _network(ending)
    before = model.get_weights()
    probabilities = model.predict(_to_tf(images), verbose=0)
    bare = evaluate.logits_model(model)
    logits = bare.predict(_to_tf(images), verbose=0)
    assert np.abs(logits.sum(axis=1) - 1).min() > 1e-2  # no longer probabilities
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(exponentials / exponentials.sum(axis=1, keepdims=True), probabilities, rtol=1e-4)
    bare.set_weights([weight + 1 for weight in bare.get_weights()])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(model.predict(_to_tf(images), verbose=0), probabilities)


@pytest.mark.slow
def test_logits_model_of_a_sequential_and_of_a_model_without_softmax(images):
    model = keras.Sequential([keras.Input(_SHAPE), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")])
    probabilities = model.predict(_to_tf(images), verbose=0)
    logits = evaluate.logits_model(model).predict(_to_tf(images), verbose=0)
    np.testing.assert_allclose(np.asarray(keras.ops.softmax(logits)), probabilities, rtol=1e-4)
    plain = _network()
    assert evaluate.logits_model(plain) is plain


@pytest.mark.slow
def test_evaluate_compares_logits_where_there_are_any(images):
    model, y = _network("fused"), np.zeros(len(images), int)
    logits = evaluate.logits_model(model)
    for other in (model, logits, _int8(logits)):
        result = evaluate.evaluate(other, images, y, reference=model, preprocess=_to_tf)
        assert result["relative_error"] < 0.1
    result = evaluate.evaluate(_int8(model), images, y, reference=model, preprocess=_to_tf)
    assert "relative_error" not in result and result["relative_error_probabilities"] < 0.1


@pytest.mark.slow
def test_command_line_scores_and_writes_json(tmp_path, images):
    model = _network()
    model.save(tmp_path / "model.keras")
    labels = model.predict(_to_tf(images), verbose=0).argmax(axis=1)
    np.savez(tmp_path / "set.npz", x=images, y=labels)
    (tmp_path / "model.tflite").write_bytes(_int8(model))

    # It sets the threads of a process, so it gets one.
    done = subprocess.run(
        [
            sys.executable,
            str(_TOOL),
            f"--data={tmp_path / 'set.npz'}",
            f"--model={tmp_path / 'model.tflite'}",
            f"--reference={tmp_path / 'model.keras'}",
            "--scale=127.5",
            "--mean=1,1,1",
            f"--json={tmp_path / 'scores.json'}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["n"] == 6 and scores["reference_top1"] == 1.0
    assert scores["top1"] == scores["agreement"] and scores["relative_error"] < 0.1
    assert "top1" in done.stdout


def test_command_line_tells_what_is_wrong():
    both = run_tool(_TOOL, "--data=set.npz", "--model=model.tflite", "--preprocess=tf", "--mean=1")
    assert both.returncode == 1 and "--preprocess=tf and --mean exclude each other" in both.stderr
    word = run_tool(_TOOL, "--data=set.npz", "--model=model.tflite", "--mean=one")
    assert word.returncode == 1 and "--mean=one is not a comma-separated list" in word.stderr
