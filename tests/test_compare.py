"""output_discrepancy and response_discrepancy of models: whatever form they have, the same figure."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from tiny_models import build, fresh, image, random_inputs, randomized

import tfdatafree
from tfdatafree import Quantize, Recipe, generate_images, output_discrepancy, response_discrepancy
from tfdatafree.compare import compare
from tfdatafree.errors import LoadError
from tfdatafree.numerics import metrics
from tfdatafree.tflite.flatbuffer import File

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return fresh("plain")


@pytest.fixture(scope="module")
def compressed(model):
    return tfdatafree.compress(model, input_range=(-1, 1), verbose=0)


def test_it_is_equation_3_on_the_outputs(model, compressed):
    (x,) = random_inputs(model, 5)
    a, b = (values.astype(np.float64) for values in (model.predict(x, verbose=0), compressed.predict(x)))
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    wanted = np.linalg.norm(unit(a) - unit(b), axis=1).mean()
    np.testing.assert_allclose(output_discrepancy(model, compressed, x), wanted, rtol=1e-6)
    assert output_discrepancy(model, model, x) == 0 < wanted


def test_every_form_of_a_model_gives_the_same(model, compressed, tmp_path):
    (x,) = random_inputs(model, 5)
    wanted = output_discrepancy(model, compressed, x)
    model.save(tmp_path / "float.keras")
    file = compressed.save(tmp_path / "file.tflite")
    for a in (model, tmp_path / "float.keras", str(tmp_path / "float.keras")):
        for b in (compressed, compressed.tflite, file, str(file)):
            assert output_discrepancy(a, b, x) == wanted
    assert output_discrepancy(compressed, model, x) == wanted


def test_where_there_is_a_file_it_runs(model, compressed, monkeypatch):
    def refuse(self):
        raise AssertionError("the simulation was asked")

    (x,) = random_inputs(model, 2)
    monkeypatch.setattr(tfdatafree.Compressed, "model", property(refuse))
    assert output_discrepancy(model, compressed, x) == output_discrepancy(model, compressed.tflite, x)


def test_what_is_only_simulated_is_simulated(model):
    recipe = Recipe(quantize=Quantize(weight_bits=5, activation_bits=5))
    coarse = tfdatafree.compress(model, recipe, input_range=(-1, 1), verbose=0)
    (x,) = random_inputs(model, 5)
    wanted = metrics.output_discrepancy(model.predict(x, verbose=0), coarse.model.predict(x, verbose=0))
    np.testing.assert_allclose(output_discrepancy(model, coarse, x), wanted, rtol=1e-5)


def test_several_inputs_and_outputs():
    model = build("two_inputs")
    changed = keras.models.clone_model(model)
    changed.set_weights([values * 1.1 + 0.01 for values in model.get_weights()])
    inputs = random_inputs(model, 4)
    wanted = output_discrepancy(model, changed, inputs)
    assert wanted > 0
    by_name = {tensor.name: values for tensor, values in zip(model.inputs, inputs, strict=True)}
    assert output_discrepancy(model, changed, by_name) == wanted
    x = image()
    y, z = L.Flatten()(x), L.GlobalAveragePooling2D()(x)
    split = randomized(keras.Model(x, [L.Dense(4, name="y")(y), L.Dense(3, name="z")(z)]))
    other = keras.models.clone_model(split)
    other.set_weights(
        [values * (at < 2) + (at >= 2) * values[..., ::-1] for at, values in enumerate(split.get_weights())]
    )
    (x,) = random_inputs(split, 4)
    pairs = zip(split.predict(x, verbose=0), other.predict(x, verbose=0), strict=True)
    each = [metrics.output_discrepancy(a, b) for a, b in pairs]
    assert min(each) < 1e-6 < max(each)
    np.testing.assert_allclose(output_discrepancy(split, other, x), np.mean(each), rtol=1e-5)


def test_responses_are_those_of_the_models(model, compressed):
    (x,) = random_inputs(model, 5)
    a, b = model.predict(x, verbose=0), compressed.predict(x)
    found = response_discrepancy(model, compressed, x)
    np.testing.assert_allclose(found, metrics.response_discrepancy(a, b), rtol=1e-6)
    assert response_discrepancy(model, model, x) == 0 < found
    with pytest.raises(ValueError, match="at least 2 samples"):
        response_discrepancy(model, compressed, x[:1])


def test_what_moves_all_outputs_alike_is_seen_by_output_discrepancy_alone(model):
    (x,) = random_inputs(model, 5)
    moved = keras.Model(model.inputs, keras.layers.Rescaling(2.0, offset=3.0)(model.outputs[0]))
    assert response_discrepancy(model, moved, x) < 1e-4 < 0.1 < output_discrepancy(model, moved, x)


def test_generated_images_are_taken_as_they_are(model, compressed):
    images = generate_images(model, 4, input_range=(-1, 1), steps=1, verbose=0)
    assert output_discrepancy(model, compressed, images) == output_discrepancy(model, compressed, images.images)


def test_what_does_not_fit_is_told(model, compressed):
    (x,) = random_inputs(model, 2)
    with pytest.raises(ValueError, match=r"images for 'image' has shape \(2, 7, 8, 3\); give \(n, 8, 8, 3\)"):
        output_discrepancy(model, compressed, x[:, 1:])
    with pytest.raises(ValueError, match=r"the Functional 'plain' takes inputs of shape \(8, 8, 3\)"):
        output_discrepancy(model, build("one_channel"), x)
    with pytest.raises(ValueError, match=r"images lacks the input\(s\) image; give an array for each of image"):
        output_discrepancy(model, compressed, {"x": x})
    with pytest.raises(tfdatafree.LoadError, match="Cannot load a int"):
        output_discrepancy(model, 3, x)
    with pytest.raises(tfdatafree.LoadError, match="the .tflite cannot be run"):
        output_discrepancy(model, b"nonsense", x)


def test_the_argmax_is_told_where_there_are_classes(model, compressed, tmp_path):
    x = image()
    vector = L.Dense(6, name="vector")(L.GlobalAveragePooling2D()(x))
    model.save(tmp_path / "classifier.keras")
    randomized(keras.Model(x, L.BatchNormalization()(vector))).save(tmp_path / "embedding.keras")
    file = compressed.save(tmp_path / "classifier.tflite")
    for a, b in ((tmp_path / "classifier.keras", file), (file, file)):
        assert compare(a, b, n=2).outputs[0].agreement is not None
    embedding = compare(tmp_path / "embedding.keras", tmp_path / "embedding.keras", n=2)
    assert embedding.outputs[0].agreement is None and "argmax" not in str(embedding)


def test_the_verdict_is_that_of_the_report_and_given_inputs_are_counted(model, compressed, tmp_path):
    model.save(tmp_path / "model.keras")
    file = compressed.save(tmp_path / "model.tflite")
    wanted = compressed.report.verdict
    found = compare(tmp_path / "model.keras", file, n=2).verdict
    assert (found.grade, found.figure) == (wanted.grade, wanted.figure)
    (x,) = random_inputs(model, 6)
    counted = compare(tmp_path / "model.keras", file, data=x).outputs[0]
    assert counted.expected.measured and counted.expected.share == counted.agreement


def test_few_inputs_and_many_give_the_same(monkeypatch, model, compressed):
    (x,) = random_inputs(model, 5)
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "predict", None)  # which would trace the model
        few = output_discrepancy(model, compressed, x)
    monkeypatch.setattr(sys.modules["tfdatafree.runnable"], "_FEW_VALUES", x.size - 1)
    np.testing.assert_allclose(output_discrepancy(model, compressed, x), few, rtol=1e-5)


def test_a_file_that_ends_the_process_that_runs_it_is_refused(compressed, tmp_path, monkeypatch):
    file = compressed.save(tmp_path / "file.tflite")
    compare(file, file, n=1)
    monkeypatch.setattr("tfdatafree.report.contents.death_of", lambda *_, **__: "it ends the process (SIGSEGV)")
    with pytest.raises(LoadError, match=r"file.tflite' cannot be run by LiteRT: it ends the process \(SIGSEGV\)"):
        compare(file, file, n=1)


def test_a_file_whose_constants_are_missing_is_refused_when_it_runs(compressed, tmp_path):
    file = File.parse(compressed.tflite)
    kernel = next(o.inputs[1] for o in file.operators if file.operator_name(o) == "CONV_2D")
    file.tensors[kernel].buffer = 0
    (tmp_path / "hollow.tflite").write_bytes(file.serialize())
    with pytest.raises(LoadError, match=r"hollow.tflite' cannot be run: .*lacks data"):
        compare(tmp_path / "hollow.tflite", tmp_path / "hollow.tflite", n=1)


def test_inputs_that_are_not_finite_are_refused(model):
    x = random_inputs(model, 2)[0]
    x[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        output_discrepancy(model, model, x)


def test_a_folder_an_array_and_a_dataset_are_the_same_inputs(model, compressed, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for at, one in enumerate(pixels):
        keras.utils.save_img(tmp_path / "images" / f"{at}.png", one, scale=False)
    x = (-1 + pixels.astype(np.float32) * np.float32(2 / 255)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(5))
    compressed.save(tmp_path / "file.tflite")
    model.save(tmp_path / "float.keras")
    dataset = tf.data.Dataset.from_tensor_slices((x, np.arange(5))).batch(2)
    found = [
        compare(tmp_path / "float.keras", tmp_path / "file.tflite", data=data, input_range=(-1, 1)).outputs
        for data in (x, tmp_path / "images", tmp_path / "x.npz", dataset)
    ]
    assert all(outputs == found[0] for outputs in found)
    np.testing.assert_array_equal(compressed.predict(dataset), compressed.predict(x))
