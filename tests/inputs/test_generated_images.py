"""GeneratedImages work wherever an array does, with the same result."""

import dataclasses
import sys

import keras
import numpy as np
import pytest
from tiny_models import build, random_inputs

from tfdatafree import Quantize, Recipe, compress, diagnose, feature_regression, output_discrepancy
from tfdatafree.compare import compare
from tfdatafree.inputs.generated_images import GeneratedImages

pytestmark = pytest.mark.slow

OPTIONS = {"input_range": (-1, 1), "verbose": 0}


def generated(model: keras.Model, n: int = 6) -> GeneratedImages:
    """As `generate_images` returns them, but drawn at random."""
    names = [tensor.name for tensor in model.inputs]
    inputs = dict(zip(names, random_inputs(model, n), strict=True))
    return GeneratedImages(inputs=inputs, input_range=(-9, 9), loss=np.zeros((1, 1)), divergence={})


def turned(images: GeneratedImages) -> GeneratedImages:
    """The same with the inputs in another order."""
    inputs = dict(reversed(images.inputs.items()))
    return GeneratedImages(inputs=inputs, input_range=(-9, 9), loss=images.loss, divergence={})


@pytest.fixture(scope="module")
def plain():
    return build("plain")


@pytest.fixture(scope="module")
def images(plain):
    return generated(plain)


def test_numpy_takes_the_images_of_one_input(images):
    array = images.inputs["image"]
    assert np.shares_memory(np.asarray(images), array)
    assert not np.shares_memory(np.array(images), array)
    np.testing.assert_array_equal(np.array(images), array)
    assert np.asarray(images, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="[Uu]nable to avoid copy"):
        np.array(images, np.float64, copy=False)
    np.testing.assert_array_equal(np.concatenate([images, array]), np.concatenate([array, array]))


def test_numpy_gets_no_array_of_several_inputs():
    with pytest.raises(
        ValueError, match=r"for the 2 inputs left, right, and one array was wanted; use .inputs\[name\]"
    ):
        np.asarray(generated(build("two_inputs")))


def test_they_are_representative_data(plain, images):
    found, wanted = (compress(plain, representative_data=data, **OPTIONS) for data in (images, images.images))
    assert found.tflite == wanted.tflite != compress(plain, **OPTIONS).tflite
    assert found.report.generated.startswith("6 generated images given by the user")
    assert wanted.report.generated.startswith("6 representative inputs given by the user")


def test_those_of_several_inputs_are_taken_by_name():
    model = build("two_inputs")
    images = generated(model)
    wanted = compress(model, representative_data=dict(images.inputs), **OPTIONS)
    for data in (images, turned(images)):
        assert compress(model, representative_data=data, **OPTIONS).tflite == wanted.tflite
    left = GeneratedImages(inputs={"left": images.inputs["left"]}, input_range=(-1, 1), loss=images.loss, divergence={})
    with pytest.raises(
        ValueError, match=r"representative_data lacks the input\(s\) right; give an array for each of left, "
    ):
        compress(model, representative_data=left, **OPTIONS)
    np.testing.assert_array_equal(wanted.predict(turned(images)), wanted.predict(images.inputs))


def test_an_input_of_another_name_takes_them_if_it_is_the_only_one(plain):
    images = generated(plain)
    renamed = GeneratedImages(inputs={"x": images.images}, input_range=(-1, 1), loss=images.loss, divergence={})
    found, wanted = (compress(plain, representative_data=data, **OPTIONS) for data in (renamed, images))
    assert found.tflite == wanted.tflite
    np.testing.assert_array_equal(found.predict(renamed), wanted.predict(images.images))
    with pytest.raises(ValueError, match="for the 2 inputs left, right, and one array was wanted"):
        compress(plain, representative_data=generated(build("two_inputs")), **OPTIONS)


def test_diagnose_measures_on_them(plain, images):
    found, wanted = (diagnose(plain, representative_data=data, images=4, **OPTIONS) for data in (images, images.images))
    assert [(s.name, s.error) for s in found.suspects] == [(s.name, s.error) for s in wanted.suspects]
    assert found.error == wanted.error != diagnose(plain, images=4, **OPTIONS).error


def test_advice_does_not_take_them_for_real_inputs(plain, images, monkeypatch):
    told = []
    module = sys.modules["tfdatafree.diagnosis.diagnose"]  # as an attribute of the package it is the function
    monkeypatch.setattr(module, "advise", lambda suspect, **known: told.append(known["real_inputs"]) or suspect)
    for data, real in ((images, False), (images.images, True), (None, False)):
        told.clear()
        diagnose(plain, representative_data=data, images=2, **OPTIONS)
        assert set(told) == {real}


def test_models_are_compared_on_them(plain, images, tmp_path):
    compressed = compress(plain, **OPTIONS)
    plain.save(tmp_path / "a.keras")
    a, b = tmp_path / "a.keras", compressed.save(tmp_path / "b.tflite")
    np.savez(tmp_path / "x.npz", x=images.images)

    def differences(**options):
        return [dataclasses.replace(output, expected=None) for output in compare(a, b, **options).outputs]

    wanted = differences(data=tmp_path / "x.npz")
    for data in (images, images.inputs):
        assert differences(data=data) == wanted != differences(n=6)
    made = compare(a, b, data=images)
    assert "\ninputs              6 generated images\n" in str(made)
    assert made.outputs[0].expected is None, "only real inputs are counted, and six are too few to estimate"
    assert "\ninputs              2 inputs given\n" in str(compare(a, b, data=images.images, n=2))
    assert output_discrepancy(plain, compressed, images) == output_discrepancy(plain, b, images.images)
    with pytest.raises(ValueError, match=r"data for 'image' has shape \(6, 7, 8, 3\); give \(n, 8, 8, 3\)"):
        compare(a, b, data=images.images[:, 1:])


def test_models_of_several_inputs_are_compared_by_their_names():
    model = build("two_inputs")
    changed = keras.models.clone_model(model)
    changed.set_weights([values * 1.1 + 0.01 for values in model.get_weights()])
    images = generated(model)
    wanted = output_discrepancy(model, changed, dict(images.inputs))
    assert (
        output_discrepancy(model, changed, images) == output_discrepancy(model, changed, turned(images)) == wanted > 0
    )
    left, right = images.inputs.values()
    other = GeneratedImages(inputs={"a": left, "b": right}, input_range=(-1, 1), loss=images.loss, divergence={})
    assert output_discrepancy(model, changed, other) == wanted, "where names differ, the order counts"


def test_feature_regression_learns_from_them(plain):
    images = generated(plain, 16)
    student = compress(plain, Recipe(quantize=Quantize(weight_bits=4)), **OPTIONS)
    found, wanted = (
        feature_regression(student, plain, data, steps=0, verbose=0).compressed for data in (images, images.images)
    )
    assert found.tflite == wanted.tflite != student.tflite
