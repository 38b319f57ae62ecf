"""Operators that end the process, or fail: kept out of the file, or found in a process of their own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from tfdatafree import ExportError, compress
from tfdatafree.export import plan, tolerance, trial
from tfdatafree.export.emit import quantize_file
from tfdatafree.export.plan import Spec
from tfdatafree.numerics.range import Range
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.trial import death_of, failure_of

pytestmark = pytest.mark.slow


def integer_file(low: float, high: float) -> bytes:
    function = tf.function(lambda x: tf.where(tf.nn.relu(x) > 0.5, x, 0.0), autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec((1, 4)))
    content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
    file = File.parse(content)
    return quantize_file(file, Spec(dict.fromkeys(range(len(file.tensors)), Range(low, high)))).content


def test_the_death_of_the_runtime_is_an_error_that_names_the_operator(monkeypatch):
    monkeypatch.setattr(plan, "refusal", lambda *arguments: None)
    with pytest.raises(ExportError, match=r"cannot run GREATER, .* it ends the process \(SIGABRT\)"):
        content = integer_file(0, 255)
        trial.require_runnable(content, File.parse(content))
    assert "SIGABRT" in (death_of(integer_file(0, 255), seconds=60, most_bytes=0) or "")


def test_a_file_from_elsewhere_may_neither_end_the_process_nor_take_all_its_time_or_memory():
    content = integer_file(0, 1)
    assert death_of(content, seconds=60, most_bytes=8 * 10**9) is None
    assert death_of(content, seconds=0.01, most_bytes=0) == "one input takes more than 0.01 s"
    assert death_of(b"no file at all", seconds=60, most_bytes=0) is None, "an error is told by whoever runs it next"


def test_what_the_kernel_does_not_take_stays_in_float_and_runs():
    for high in (1, 255):
        content = integer_file(0, high)
        file = File.parse(content)
        names = [file.operator_name(operator) for operator in file.operators]
        assert ("DEQUANTIZE" in names) == (high == 255)
        trial.require_runnable(content, file)


def test_files_of_safe_operators_start_no_process(monkeypatch):
    monkeypatch.setattr("tfdatafree.tflite.trial.subprocess.run", None)
    image = keras.Input((4, 4, 3))
    compress(keras.Model(image, L.Conv2D(2, 3, activation="relu")(image)), input_range=(-1, 1), verbose=0)


def test_a_division_by_a_value_of_the_network_runs_on_flat_inputs():
    image = keras.Input((8, 8, 3))
    low, high = (function(image, (1, 2, 3), keepdims=True) for function in (ops.min, ops.max))
    compressed = compress(
        keras.Model(image, L.Conv2D(2, 3)((image - low) / (high - low + 1e-3))), input_range=(0, 1), verbose=0
    )
    assert any("DIV" in name for name in compressed.report.kept)
    assert any("ADD" in name for name in compressed.report.kept), "the divisor must not round to 0 before it"
    assert np.isfinite(compressed.predict(np.zeros((1, 8, 8, 3), "float32"))).all()


def test_an_operation_that_integer_operators_compute_badly_stays_in_float(monkeypatch):
    image = keras.Input((8, 8, 3))
    x = L.Activation("tanh_shrink", name="act")(L.Conv2D(4, 3)(image))
    model = keras.Model(image, L.Conv2D(2, 3)(x))
    monkeypatch.setattr(tolerance, "_POOR_DB", 200.0)
    kept = compress(model, input_range=(-1, 1), verbose=0).report.kept
    assert any("would compute 'act' with" in reason for reason in kept.values())
    monkeypatch.setattr(tolerance, "_POOR_DB", -200.0)
    assert not any("would compute" in r for r in compress(model, input_range=(-1, 1), verbose=0).report.kept.values())


def test_modules_in_the_users_folder_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    assert failure_of(integer_file(0, 1)) is None
