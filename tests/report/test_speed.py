"""The report's latencies: which files are timed, and that nothing is timed unless asked for."""

import numpy as np
import pytest
from tiny_models import QUICK, build, compressed, separated

import tfdatafree
from tfdatafree import Recipe
from tfdatafree.errors import ExportError
from tfdatafree.export.float_model import converters_file
from tfdatafree.report import speed
from tfdatafree.tflite.flatbuffer import File

pytestmark = pytest.mark.slow


def test_the_report_names_three_files_and_their_ratios():
    report = tfdatafree.compress(
        build("plain"), Recipe(generate=QUICK), input_range=(-1, 1), measure_latency=True, verbose=0
    ).report
    ours, of_float, of_converter = report.latencies
    assert ours.file == speed.OURS and ours.ratio == 1 and of_float.file == "float"
    assert all(latency.seconds > 0 and latency.low <= latency.ratio <= latency.high for latency in report.latencies)
    text = str(report)
    assert "  latency     " in text and f"{of_converter.file}: {of_converter.ratio:.3g} times as long" in text
    assert report.to_dict()["latencies"][0]["file"] == speed.OURS


def test_nothing_is_timed_unless_asked_for(monkeypatch):
    monkeypatch.setattr(speed, "measure_latency", None)
    report = compressed("plain").report
    assert report.latencies == () and "latency" not in str(report)
    with pytest.raises(ValueError, match="measure_latency is 'no'; give True or False"):
        tfdatafree.compress(build("plain"), measure_latency="no", verbose=0)


def test_the_converters_file_computes_in_integers_and_a_failure_leaves_a_row_out(monkeypatch):
    graph, inputs = separated("plain"), [np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)]
    file = File.parse(converters_file(graph, inputs))
    assert {file.dtype(index) for index in (*file.inputs, *file.outputs)} == {"int8"}

    def fails(source, calibration=None):
        raise ExportError("no")

    monkeypatch.setattr(speed, "converters_file", fails)
    (ours,) = speed.measure_latency(graph, compressed("plain").tflite, inputs)
    assert ours.file == speed.OURS
