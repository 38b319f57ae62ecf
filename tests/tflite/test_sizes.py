import gzip
import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import build, quick, randomized

from tfdatafree import ExportError
from tfdatafree.recipe.prune import Prune
from tfdatafree.runtimes.latency import latencies
from tfdatafree.targets import vela
from tfdatafree.targets.vela import compile_for_npu
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.sizes import gzip_bytes, kernel_zeros, macs

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import sizes

needs_vela = pytest.mark.skipif(importlib.util.find_spec("ethosu") is None, reason="the extra npu is not installed")


def counted() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    y = L.Conv2D(4, 3, strides=2, padding="same", name="conv")(image)
    y = L.DepthwiseConv2D(3, padding="same", name="dw")(y)
    y = L.Conv2DTranspose(5, 2, strides=2, name="up")(y)
    return randomized(keras.Model(image, L.Dense(6, name="dense")(L.Flatten(name="flatten")(y)), name="counted"))


@pytest.mark.slow
def test_multiplications_are_those_of_every_output_value():
    conv, depthwise, up, dense = 4 * 4 * 4 * 27, 4 * 4 * 4 * 9, 4 * 4 * 4 * (2 * 2 * 5), 8 * 8 * 5 * 6
    assert macs(File.parse(quick(counted()).tflite)) == conv + depthwise + up + dense


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.slow
def test_zeros_of_float_kernels_are_seen(float16):
    import dataclasses

    from tfdatafree import PRESETS, compress

    model = counted()
    model.get_layer("dense").kernel.assign(np.where(np.arange(320)[:, None] < 160, 0, model.get_layer("dense").kernel))
    recipe = PRESETS["float16"] if float16 else dataclasses.replace(PRESETS["float16"], float16=False)
    total = 108 + 36 + 80 + 1920
    assert kernel_zeros(compress(model, recipe, input_range=(-1, 1), verbose=0).tflite) == pytest.approx(960 / total)


@pytest.mark.slow
def test_the_report_has_packed_bytes_and_zeros():
    result = quick(build("plain"))
    content = result.tflite
    assert result.report.gzip_bytes == gzip_bytes([content]) < len(content)
    assert gzip_bytes([content]) == pytest.approx(len(gzip.compress(content, 9, mtime=0)), abs=16)
    assert result.report.zeros == kernel_zeros(content) < 0.05
    assert "bytes with gzip" in str(result.report) and result.report.to_dict()["gzip_bytes"] > 0


def test_without_vela_there_is_a_hint(monkeypatch):
    monkeypatch.setattr(vela.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install ethos-u-vela"):
        compile_for_npu(b"")


@needs_vela
@pytest.mark.slow
def test_vela_codes_zeros_in_less():
    random = np.random.default_rng(0)
    found = {}
    for name, zeros in (("dense", 0.0), ("sparse", 0.8)):
        image = keras.Input((8, 8, 32), name="image")
        model = randomized(keras.Model(image, L.Conv2D(64, 3, name="conv")(image), name=name))
        kernel = model.get_layer("conv").kernel
        kernel.assign(kernel.numpy() * (random.uniform(size=kernel.shape) >= zeros))
        found[name] = compile_for_npu(quick(model).tflite)
    assert found["sparse"].weight_bytes < 0.6 * found["dense"].weight_bytes < found["dense"].bytes
    assert found["sparse"].macs == found["dense"].macs == 6 * 6 * 64 * 9 * 32
    assert found["dense"].original_weight_bytes >= 9 * 32 * 64


@needs_vela
@pytest.mark.slow
def test_what_vela_refuses_is_told():
    with pytest.raises(ExportError, match=r"Vela did not compile the file for ethos-u55-128; it said: .*\S"):
        compile_for_npu(b"no file")


@pytest.mark.slow
def test_files_side_by_side():
    model = build("plain")
    files = {"dense": quick(model).tflite, "again": quick(model).tflite}
    rows = sizes.measure(files, rounds=2)
    assert rows[0].bytes == rows[1].bytes == len(files["dense"])
    assert rows[0].latency_ratio == 1 and rows[1].latency_ms > 0
    assert latencies(list(files.values()), 3).shape == (3, 2)
    lines = sizes.table(rows).splitlines()
    assert len(lines) == 4 and all(line.count("|") == lines[0].count("|") for line in lines)


def test_variants_are_read():
    assert sizes.parse_variant("dense") is None
    assert sizes.parse_variant("obs:0.6") == Prune(method="obs", sparsity=0.6)
    assert sizes.parse_variant("2:4") == Prune(pattern="2:4")
    assert sizes.parse_variant("4x1:0.5") == Prune(pattern="4x1", sparsity=0.5)
    with pytest.raises(ValueError, match="variant is 'obs'; write dense, METHOD:SPARSITY"):
        sizes.parse_variant("obs")
