"""The examples of README and docs, run: each page's blocks in their order, on a small network, in a folder of their own.

Numbers of images and steps are cut, so that nothing takes long. Commands of other programs are left out.
"""

import ast
import dataclasses
import functools
import re
import shlex

import keras
import numpy as np
import pytest
from documents import PAGES, fenced
from keras import layers as L
from tiny_models import randomized

import tfdatafree
from tfdatafree.cli import main

# Larger whole numbers are counts; bits, channels and class numbers are smaller.
_LARGEST, _FEW = 20, 8
# Flags whose numbers are counts, or that need a device.
_COUNTS, _DEVICES = ("--recover=", "--n="), ("--phone", "--runtime=tosa")
# What the tests of its own run: a demo that needs other data, and processes side by side.
_ELSEWHERE = ("demo", "sweep")

pytestmark = pytest.mark.slow


class _Fewer(ast.NodeTransformer):
    """Cuts counts; the ends of ranges in tuples stay."""

    def visit_Tuple(self, node: ast.Tuple) -> ast.Tuple:
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        large = type(node.value) is int and node.value > _LARGEST
        return ast.copy_location(ast.Constant(_FEW), node) if large else node


def _classifier() -> keras.Model:
    x = image = keras.Input((16, 16, 3), name="image")
    x = L.Conv2D(32, 3, strides=2, use_bias=False, name="Conv1")(x)
    x = L.ReLU(6.0, name="Conv1_relu")(L.BatchNormalization(name="bn_Conv1")(x))
    x = L.DepthwiseConv2D(3, use_bias=False, name="block_1_depthwise")(x)
    x = L.ReLU(6.0, name="block_1_relu")(L.BatchNormalization(name="block_1_BN")(x))
    # Most of the file's bytes are weights, as in real networks.
    x = L.BatchNormalization(name="block_1_project_BN")(L.Conv2D(192, 3, use_bias=False, name="block_1_project")(x))
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return randomized(keras.Model(image, L.Dense(4, activation="softmax", name="predictions")(x), name="small"))


def _detector() -> keras.Model:
    x = image = keras.Input((16, 16, 3), name="image")
    x = L.ReLU(name="relu")(L.BatchNormalization(name="bn")(L.Conv2D(8, 3, strides=2, name="stem")(x)))
    boxes = L.Rescaling(640.0, name="boxes")(L.Conv2D(4, 1, activation="sigmoid", name="corners")(x))
    scores = L.Conv2D(3, 1, activation="sigmoid", name="scores")(x)
    return randomized(keras.Model(image, L.Concatenate(name="both")([boxes, scores]), name="detector"))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict:
    """The files that examples name, as bytes, and the variables that they use."""
    folder = tmp_path_factory.mktemp("world")
    files: dict[str, bytes] = {}
    for kind, model in (("page", _classifier()), ("outputs", _detector())):
        model.save(folder / "model.keras")
        compressed = tfdatafree.compress(model, input_range=(-1, 1), verbose=0, split_outputs=kind == "outputs")
        files[kind, "keras"], files[kind, "tflite"] = (folder / "model.keras").read_bytes(), compressed.tflite
    return files


def _variables(folder, kind: str) -> dict:
    model = keras.models.load_model(folder / "model.keras")
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (_FEW, 16, 16, 3)).astype(np.float32)
    known = {"np": np, "keras": keras, "tfdatafree": tfdatafree, "dataclasses": dataclasses, "model": model}
    known |= {name: getattr(tfdatafree, name) for name in tfdatafree.__all__}
    known["state"] = _state_dict(model)
    integers = random.integers(-128, 128, (1, 16, 16, 3)).astype(np.int8)
    return known | {
        "images": images,
        "x": images[:1],
        "q": integers,
        "compressed": tfdatafree.compress(model, input_range=(-1, 1), verbose=0),
    }


def _state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """The weights as PyTorch orders their axes."""
    moved = {2: (1, 0), 4: (3, 2, 0, 1)}
    state = {"num_batches_tracked": np.zeros(())}
    for layer in model.layers:
        for weight in layer.weights:
            values = np.asarray(weight)
            axes = (2, 3, 0, 1) if isinstance(layer, L.DepthwiseConv2D) else moved.get(values.ndim)
            state[weight.path] = values if axes is None else values.transpose(axes)
    return state


@pytest.mark.parametrize(
    "page", [name for name, path in PAGES.items() if fenced(path.read_text()) and name != "docs/sweep.md"]
)
def test_examples_run(page, world, tmp_path, monkeypatch, capsys):
    for name in ("feature_regression", "reconstruct"):
        monkeypatch.setattr(tfdatafree, name, functools.partial(getattr(tfdatafree, name), steps=_FEW))
    for name, method in tfdatafree.METHODS.items():
        images = method.cpu.images
        few = dataclasses.replace(images, warm_up=2) if hasattr(images, "warm_up") else images
        cpu = dataclasses.replace(method.cpu, steps=4, held_out=_FEW, images=few)
        monkeypatch.setitem(tfdatafree.METHODS, name, dataclasses.replace(method, cpu=cpu))
    kind = "outputs" if page.endswith("outputs.md") else "page"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "converted").mkdir()
    for name in ("model", "net", "mobilenet", "resnet", "mobilenet_v2", "converted/net_float32_v3"):
        (tmp_path / f"{name}.keras").write_bytes(world[kind, "keras"])
    for name in ("model", "float", "npu", "mobilenet"):
        (tmp_path / f"{name}.tflite").write_bytes(world[kind, "tflite"])
    for name in ("images", "val/cat", "val/dog", "val/fox", "val/owl"):
        (tmp_path / name).mkdir(parents=True)
        keras.utils.save_img(tmp_path / name / "first.png", np.full((16, 16, 3), 128), scale=False)
    np.savez(tmp_path / "test.npz", x=np.zeros((4, 16, 16, 3), np.float32), y=np.arange(4))
    (tmp_path / "labels.txt").write_text("cat\ndog\nfox\nowl\n")
    variables = _variables(tmp_path, kind)
    for language, code in fenced(PAGES[page].read_text()):
        if language == "python":
            for written in re.findall(r"save\(\"(.+?)\"", code):
                (tmp_path / written).unlink(missing_ok=True)
            exec(compile(_Fewer().visit(ast.parse(code)), page, "exec"), variables)
        elif language == "sh":
            for line in code.splitlines():
                _run(line)


def _run(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[:1] != ["tfdatafree"] or words[1] in _ELSEWHERE or any(word.startswith(_DEVICES) for word in words):
        return
    cut = [f"{word.partition('=')[0]}={_FEW}" if word.startswith(_COUNTS) else word for word in words[1:]]
    assert main([*cut, "--overwrite"] if words[1] == "compress" else cut) == 0, line
