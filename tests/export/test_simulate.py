"""Recipes that no integer file can hold get a simulation instead of the file."""

import json

import keras
import numpy as np
import pytest
from tiny_models import build, each, exported, outputs_of, separated

from tfdatafree import Compressed, Generate, Quantize, Recipe, compress
from tfdatafree.errors import ExportError
from tfdatafree.export.simulate import simulate
from tfdatafree.inputs.make import make_inputs
from tfdatafree.numerics.affine import asymmetric_weight_quantizer
from tfdatafree.quantization.feedback import round_with_feedback

QUICK = Generate(images=4, samples=200, effort="fast")


def quick(name: str, **options) -> Compressed:
    ends = (0, 255) if name == "uint8_input" else (-1, 1)
    recipe = Recipe(name="quick", quantize=Quantize(**options), generate=QUICK)
    return compress(build(name), recipe, input_range=ends, verbose=0)


def inputs_of(name: str, n: int = 5) -> list[np.ndarray]:
    return make_inputs(separated(name), n, (0, 255) if name == "uint8_input" else (-1, 1), seed=9)


# Each kind of structure, of input and of output, and an operation with several operators in a file.
SIMULATED = [
    "plain", "branch_add", "depthwise", "conv1d", "shared_layer", "squeeze_excite", "concatenate", "poolings", "prelu",
    "hard_swish", "softmax", "dict_outputs", "uint8_input", "static_batch", "two_inputs", "nested_with_dict_inputs",
]  # fmt: skip


@each(SIMULATED)
@pytest.mark.slow
def test_it_predicts_saves_and_reports_what_it_simulates(name, tmp_path):
    result, inputs = quick(name, activation_bits=6), inputs_of(name, 1 if name == "static_batch" else 5)
    found = result.predict(inputs if len(inputs) > 1 else inputs[0])
    wanted = outputs_of(result.model, inputs)
    for a, b in zip(found if isinstance(found, list) else [found], wanted, strict=True):
        step = np.diff(np.unique(b)).max(initial=0)
        np.testing.assert_allclose(a, b, atol=1.01 * step, rtol=1e-5)
        assert np.mean(np.isclose(a, b, atol=1e-5 * np.abs(b).max())) > 0.8, "only ties may round differently"
    assert {row.activation_bits for row in result.report.layers} == {6}
    assert "simulated only, no file: TFLite stores activations in 8 or 16 bits, not 6" in str(result.report)


@pytest.mark.slow
def test_there_is_no_file_and_it_says_why(tmp_path):
    result = quick("plain", activation_bits=4)
    with pytest.raises(
        ExportError, match=r"no integer file: TFLite stores activations in 8 or 16 bits, not 4\. Use .model"
    ):
        _ = result.tflite
    with pytest.raises(ExportError, match="no integer file"):
        result.save(tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ExportError, match="symmetric weights only"):
        _ = quick("plain", symmetric_weights=False).tflite
    record = json.loads(result.save(tmp_path / "m.json").read_text())
    assert record["report"]["simulated"] and record["report"]["bytes"] == 0
    loaded = keras.saving.load_model(result.save(tmp_path / "m.keras"))
    (x,) = inputs_of("plain")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), outputs_of(result.model, [x])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "branch_add", "depthwise", "concatenate", "two_outputs"])
def test_at_8_bits_it_decides_what_the_file_decides(name):
    made = exported(name)
    built = simulate(made.decision, made.inputs)
    for tensor, grid in made.built.grids.items():
        assert built.grids[tensor].bits == 8 and np.isclose(built.grids[tensor].scale, grid.scale, rtol=0.02), tensor
        assert abs(built.checks[tensor].sqnr_db - made.built.checks[tensor].sqnr_db) < 3, tensor


@pytest.mark.slow
def test_fewer_bits_lose_more():
    (x,), (wanted,) = inputs_of("plain"), outputs_of(build("plain"), inputs_of("plain"))
    errors = [
        np.linalg.norm(quick("plain", activation_bits=b, weight_bits=min(b, 8)).predict(x) - wanted) for b in (4, 6, 8)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_the_lowest_and_the_highest_weight_are_the_ends_of_an_asymmetric_grid():
    w = np.random.default_rng(0).uniform(-1, 3, (50, 4)).astype(np.float32)
    w[:, 2] = 0
    for axis in (None, 1):
        q = asymmetric_weight_quantizer(w, 6, axis)
        assert np.abs(q(w) - w).max() <= np.max(q.scale) / 2 * 1.0001
        assert np.all(q(np.zeros_like(w)) == 0) and np.isclose(np.max(q.scale), 4 / 63, rtol=0.03)
    assert q.scale[2] == asymmetric_weight_quantizer(w, 6).scale, "a channel of zeros has the scale of the whole tensor"


@pytest.mark.parametrize("groups", [1, 3])
def test_feedback_rounds_on_any_grid(groups):
    random = np.random.default_rng(1)
    inputs, outputs = 20, 6
    x = random.normal(size=(400, groups, inputs)) @ random.normal(size=(inputs, inputs))
    covariance = np.stack([np.cov(x[:, g].T) for g in range(groups)]).astype(np.float32)
    w = random.uniform(-1, 3, (inputs, outputs)).astype(np.float32)
    grid = asymmetric_weight_quantizer(w, 4)
    integers = round_with_feedback(w, covariance, grid)
    assert integers.min() >= grid.qmin and integers.max() <= grid.qmax

    def lost(rounded):
        error = (rounded - w).reshape(inputs, groups, -1)
        return sum(np.trace(error[:, g].T @ covariance[g] @ error[:, g]) for g in range(groups))

    assert lost(grid.dequantize(integers)) < 0.7 * lost(grid(w))
    far = np.full_like(covariance, 0) + np.eye(inputs, dtype=np.float32)
    np.testing.assert_array_equal(round_with_feedback(w, far, grid), grid.quantize(w), "without correlations: nearest")
