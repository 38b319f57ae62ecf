"""prune, quantize and export_tflite: each is what compress makes of the recipe that it stands for."""

import inspect
import sys

import keras
import numpy as np
import pytest
from tiny_models import build, random_inputs

import tfdatafree
from tfdatafree import ExportError, Prune, Quantize, Recipe, compress, export_tflite, prune, quantize

OPTIONS = {"input_range": (-1, 1), "verbose": 0}
STAGES = sys.modules["tfdatafree.stages"]


@pytest.fixture(scope="module")
def plain():
    return build("plain")


def kernels(model: keras.Model) -> np.ndarray:
    """All weights of convolution and dense kernels."""
    return np.concatenate([np.ravel(v) for v in model.weights if v.path.endswith("/kernel")])


def has_weights_of(a: keras.Model, b: keras.Model) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


@pytest.mark.slow
def test_prune_gives_a_plain_float_model_with_the_zeros_of_compress(plain, tmp_path):
    before = plain.get_weights()
    pruned = prune(plain, 0.6, method="obs", **OPTIONS)
    wanted = compress(plain, Recipe(quantize=None, prune=Prune(sparsity=0.6, method="obs")), **OPTIONS).model
    assert has_weights_of(pruned, wanted)
    assert np.mean(kernels(pruned) == 0) == pytest.approx(0.6, abs=0.005) and np.mean(kernels(plain) == 0) < 0.01
    assert all(type(layer).__module__.startswith("keras.") for layer in pruned.layers), (
        "nothing of this package is in it"
    )
    for old, new in zip(before, plain.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_zeros_of_prune_stay_zero_when_the_model_is_quantized(plain):
    pruned = prune(plain, 0.6, method="energy", **OPTIONS)
    quantized = quantize(pruned, **OPTIONS)
    assert np.mean(kernels(quantized) == 0) >= np.mean(kernels(pruned) == 0) - 1e-9


@pytest.mark.parametrize("options, part", [({}, 0.5), ({"pattern": "1:4"}, 0.75), ({"pattern": "4x1"}, 0.5)])
def test_without_a_sparsity_the_pattern_decides_or_half_of_the_weights_go(options, part, monkeypatch):
    asked = []

    class Result:
        model = None

    monkeypatch.setattr(STAGES, "compress", lambda model, recipe, **_: asked.append(recipe) or Result)
    prune("a.keras", **options)
    assert asked == [Recipe(quantize=None, prune=Prune(sparsity=part, **options))]


@pytest.mark.slow
def test_quantize_gives_the_model_that_simulates_the_file(plain):
    recipe = Recipe(quantize=Quantize(weight_bits=4))
    quantized, compressed = quantize(plain, recipe, **OPTIONS), compress(plain, recipe, **OPTIONS)
    (x,) = random_inputs(plain, 4)
    np.testing.assert_array_equal(quantized.predict(x, verbose=0), compressed.model.predict(x, verbose=0))
    np.testing.assert_allclose(quantized.predict(x, verbose=0), compressed.predict(x), atol=0.05)
    assert not has_weights_of(quantized, quantize(plain, **OPTIONS)), "the recipe counts"


def test_what_stays_in_float_is_not_quantized(plain):
    for recipe in ("float16", Recipe(quantize=None)):
        with pytest.raises(ValueError, match="leaves everything in float; choose one that quantizes, e.g. 'int8'"):
            quantize(plain, recipe)


@pytest.mark.slow
def test_export_writes_the_file_of_compress(plain, tmp_path):
    path = export_tflite(plain, str(tmp_path / "a.tflite"), "int16x8", **OPTIONS)
    assert path == tmp_path / "a.tflite"
    assert path.read_bytes() == compress(plain, "int16x8", **OPTIONS).tflite
    assert export_tflite(plain, path, overwrite=True, **OPTIONS).read_bytes() == compress(plain, **OPTIONS).tflite


def test_export_refuses_before_the_work_what_would_fail_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(STAGES, "compress", lambda *_, **__: pytest.fail("the work has begun"))
    (tmp_path / "a.tflite").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a.tflite exists; pass overwrite=True"):
        export_tflite("a.keras", tmp_path / "a.tflite")
    with pytest.raises(ValueError, match=r"path is '.*a.lite'; give a name that ends in .tflite"):
        export_tflite("a.keras", tmp_path / "a.lite")
    with pytest.raises(ValueError, match="recipe is 'int9'; did you mean 'int8'"):
        export_tflite("a.keras", tmp_path / "b.tflite", "int9")
    with pytest.raises(
        ExportError, match=r"no integer file: TFLite stores activations in 8 or 16 bits, not 5. Call quantize"
    ):
        export_tflite("a.keras", tmp_path / "b.tflite", Recipe(quantize=Quantize(activation_bits=5)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tflite"]


@pytest.mark.parametrize("name", ["prune", "quantize", "export_tflite"])
def test_arguments_are_those_of_compress_and_reach_it(name, monkeypatch, tmp_path):
    """Arguments that stages share with compress have its defaults, and what is given is what compress gets."""
    stage, whole = getattr(tfdatafree, name), inspect.signature(compress).parameters
    own = inspect.signature(stage).parameters
    shared = {key for key in own if key in whole} - {"model", "recipe"}
    assert shared >= {"input_range", "input_shape", "representative_data", "seed", "unsafe_load", "verbose"}
    assert {key: own[key].default for key in shared} == {key: whole[key].default for key in shared}
    got = {}

    class Result:
        model = None

        @staticmethod
        def save(path, overwrite):
            return path

    monkeypatch.setattr(STAGES, "compress", lambda model, recipe, **options: got.update(options) or Result)
    given = {key: object() for key in shared}
    stage(*(["a.keras", tmp_path / "a.tflite"] if name == "export_tflite" else ["a.keras"]), **given)
    assert got == given
