import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tfdatafree import compress
from tfdatafree.export.emit import IntegerModel, quantize_file
from tfdatafree.export.float_model import convert
from tfdatafree.export.inverse_roots import table_error
from tfdatafree.export.plan import Spec
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.runtime import Runner

INTEGERS = np.arange(1, 2**15)


@functools.cache
def float_file() -> tuple[bytes, int, int]:
    x = keras.Input((len(INTEGERS), 1))
    found = convert(Graph.from_keras(keras.Model(x, ops.rsqrt(x))), [np.ones((1, len(INTEGERS), 1), "float32")])
    file = File.parse(found.content)
    return found.content, file.inputs[0], file.outputs[0]


def computed(highest: float, highest_root: float) -> tuple[np.ndarray, Quantizer, Quantizer]:
    """(inverse roots of all positive integers as LiteRT computes them, grid of x, grid of the roots)."""
    content, source, target = float_file()
    ranges = {source: Range(0, highest), target: Range(0, highest_root)}
    result: IntegerModel = quantize_file(File.parse(content), Spec(ranges, activation_bits=16, edge_dtype="int16"))
    x = (INTEGERS * float(result.grids[source].scale)).astype("float32").reshape(1, -1, 1)
    return Runner(result.content).predict([x])[0].ravel(), result.grids[source], result.grids[target]


@pytest.mark.parametrize("highest", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("room", [4.0, 100.0, 1e6])
def test_roots_of_small_and_large_values_are_right(highest, room):
    roots, x, grid = computed(highest, room / np.sqrt(highest))
    exact = 1 / np.sqrt(INTEGERS * float(x.scale))
    inside = exact < float(grid.high) / 2
    error = np.abs(roots - exact)
    assert np.all((error <= 0.05 * exact + 2 * float(grid.scale))[inside]), (
        "a quarter of a table would be wrong by more than half"
    )
    assert np.all((error <= 0.02 * exact + 2 * float(grid.scale))[inside & (INTEGERS >= 8)])


@pytest.mark.parametrize("highest_root", [3.0, 20.0, 150.0, 1e5])
def test_the_error_is_known_beforehand(highest_root):
    roots, x, grid = computed(1.0, highest_root)
    exact = np.minimum(1 / np.sqrt(INTEGERS * float(x.scale)), float(grid.high))
    assert np.abs(roots - exact).max() <= table_error(x, grid) * float(grid.scale)


def test_no_grid_reaches_beyond_the_root_of_half_a_step():
    _, x, grid = computed(1.0, 1e9)
    assert float(grid.high) == pytest.approx(np.sqrt(2 / float(x.scale)), rel=1e-3)


def contrasts() -> np.ndarray:
    random = np.random.default_rng(0)
    patches = np.kron(random.uniform(-1, 1, (24, 4, 4, 3)), np.ones((1, 4, 4, 1)))
    return (patches * np.geomspace(0.15, 1, 24)[:, None, None, None]).astype("float32")


def network(norm) -> keras.Model:
    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3))
    x = L.ReLU()(norm(L.Conv2D(8, 3)(image)))
    return keras.Model(image, L.Dense(5)(L.GlobalAveragePooling2D()(x)))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8", "int16x8"])
@pytest.mark.parametrize(
    "norm", [L.LayerNormalization(axis=(1, 2, 3)), L.GroupNormalization(2)], ids=["layer", "group"]
)
def test_images_of_any_contrast_are_normalized_in_integers(norm, recipe):
    model, images = network(norm), contrasts()
    result = compress(model, recipe, input_range=(-1, 1), verbose=0)
    expected = model(images).numpy()
    noise = np.square(expected - result.predict(images)).mean(axis=1)
    assert result.report.integer_only
    assert np.all(10 * np.log10(np.square(expected).mean(axis=1) / noise) > 20), "also those of little contrast"


@pytest.mark.slow
def test_a_device_without_16_bit_roots_gets_8_bits():
    result = compress(network(L.GroupNormalization(2)), input_range=(-1, 1), target="tflite-micro", verbose=0)
    file = File.parse(result.tflite)
    assert {file.dtype(index) for operator in file.operators for index in operator.outputs} == {"int8"}
