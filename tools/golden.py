"""Hashes what every way through the package makes of a model, so that a change that should change nothing can show it.

    python tools/golden.py record before.json model.keras ...      # before the change
    python tools/golden.py check before.json model.keras ...       # after it: exit code 1, and what differs, if anything does

The demo network and a network without BatchNorm are always hashed; models named by path are hashed, too. The cases are every
preset, every target, a kept layer, packed 4-bit weights, a searched, a pruned (also in a pattern, with trained thresholds, by
channels), a recovered and several simulated models, a diagnosis, layer inputs, generated images and feature regression.

Hashes hold on one machine only: other processors and other numbers of cores sum in another order.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
from absl import app, flags

import tfdatafree
from tfdatafree import Prune, Quantize, Recipe, Recover, Rule, Search
from tfdatafree.demo import load_demo

_CASES = flags.DEFINE_list("cases", [], "Only cases whose names contain one of these.")
_SKIP = flags.DEFINE_list("skip", [], "Leave out cases whose names contain one of these.")

_TARGETS = ("ethos-u55", "ethos-u65", "ethos-u85", "edgetpu", "nnapi", "hexagon", "stm32n6", "tflite-micro", "mediatek")
_COMPRESSED: dict[str, dict] = {
    **{f"preset {name}": {"recipe": name} for name in tfdatafree.PRESETS},
    **{f"target {name}": {"target": name} for name in _TARGETS},
    "float, pruned": {"recipe": Recipe(quantize=None, prune=Prune(sparsity=0.5, method="obs"))},
    "pruned": {"recipe": Recipe(prune=Prune(sparsity=0.5))},
    "pruned by energy": {"recipe": Recipe(prune=Prune(sparsity=0.3, method="energy"))},
    "pruned 2:4": {"recipe": Recipe(prune=Prune(pattern="2:4", method="obs"))},
    "pruned by trained thresholds": {"recipe": Recipe(prune=Prune(sparsity=0.5, method="str"))},
    "channels removed": {"recipe": Recipe(prune=Prune(sparsity=0.3, method="channel"))},
    "searched": {"recipe": Recipe(policy=Search(size=0.9))},
    "recovered": {"recipe": Recipe(quantize=Quantize(weight_bits=4), recover=Recover(images=16))},
    "4 bits packed": {"recipe": Recipe(quantize=Quantize(weight_bits=4, int4=True))},
    "4 bits, steps searched": {"recipe": Recipe(quantize=Quantize(weight_bits=4, weight_ranges="search"))},
    "adaround": {"recipe": Recipe(quantize=Quantize(rounding="adaround"))},
    "empirical biases": {"recipe": Recipe(quantize=Quantize(bias_correction="empirical", activation_correction=True))},
    "outliers scaled": {"recipe": Recipe(scale_outliers=True)},
    "equalized by channel": {"recipe": Recipe(equalize=True, equalize_caps="channel", absorb_bias=True)},
    "ranges aciq": {"recipe": Recipe(quantize=Quantize(ranges="aciq", edge_dtype="float32"))},
    "ranges percentile": {"recipe": Recipe(quantize=Quantize(ranges="percentile", edge_dtype="uint8"))},
    "rules": {"recipe": Recipe(rules=(Rule("Dense", keep_float=True), Rule("Conv2D", weight_bits=4)))},
    "16-bit tensors": {"recipe": Recipe(rules=(Rule("Dense", activation_bits=16),))},
    "simulated 4 bits": {"recipe": Recipe(quantize=Quantize(weight_bits=4, activation_bits=4))},
    "simulated asymmetric": {"recipe": Recipe(quantize=Quantize(weight_bits=4, symmetric_weights=False))},
    "simulated equalized": {"recipe": Recipe(quantize=Quantize(equalized_rounding=True))},
}


def _hash(*values: object) -> str:
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype} {value.shape}".encode())
            value = np.ascontiguousarray(value).tobytes()
        digest.update(value if isinstance(value, bytes) else repr(value).encode())
    return digest.hexdigest()[:16]


def _inputs(model: keras.Model) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (2, *model.inputs[0].shape[1:])).astype(np.float32)


def _compressed(model: keras.Model, options: dict) -> str:
    compressed = tfdatafree.compress(model, verbose=0, **options)
    try:
        content = compressed.tflite
    except tfdatafree.ExportError:  # simulated only
        content = b""
    simulation = compressed.model
    grids = [
        sorted((name, value) for name, value in layer.get_config().items() if name in ("scale", "zero_point", "bits"))
        for layer in simulation.layers
        if type(layer).__name__ == "Quantization"
    ]
    outputs = compressed.predict(_inputs(model))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return _hash(content, *simulation.get_weights(), grids, *outputs)


def _diagnosed(model: keras.Model) -> str:
    diagnosis = tfdatafree.diagnose(model, "int8", verbose=0)
    return _hash([(suspect.kind, suspect.name, suspect.error, suspect.agreement) for suspect in diagnosis.suspects])


def _layer_inputs(model: keras.Model) -> str:
    found = tfdatafree.layer_inputs(model, seed=1)
    return _hash(*(array for name in sorted(found) for array in (name, np.asarray(found[name]))))


def _images(model: keras.Model) -> np.ndarray:
    return tfdatafree.generate_images(model, 8, steps=5, verbose=0).images


def _regression(model: keras.Model) -> str:
    student = tfdatafree.compress(model, Recipe(quantize=Quantize(weight_bits=4)), verbose=0)
    recovered = tfdatafree.feature_regression(student, model, _images(model), steps=3, verbose=0)
    return _hash(*recovered.model.get_weights(), recovered.compressed.tflite)


def _passes(model: keras.Model) -> str:
    folded = tfdatafree.fold_batchnorm(model).model
    equalized = tfdatafree.equalize(model).model
    absorbed = tfdatafree.absorb_bias(model).model
    return _hash(*folded.get_weights(), *equalized.get_weights(), *absorbed.get_weights())


def cases(model: keras.Model) -> Iterator[tuple[str, Callable[[], str]]]:
    """(name, what makes the hash) of everything that is tried on a model."""
    for name, options in _COMPRESSED.items():
        yield name, lambda options=options: _compressed(model, options)
    yield "inputs given", lambda: _compressed(model, {"representative_data": _inputs(model), "seed": 3})
    yield "diagnosis", lambda: _diagnosed(model)
    yield "layer inputs", lambda: _layer_inputs(model)
    yield "generated images", lambda: _hash(_images(model))
    yield "feature regression", lambda: _regression(model)
    yield "passes", lambda: _passes(model)


def _without_batchnorm() -> keras.Model:
    """A network with branches, several operations behind each other and two outputs; no BatchNorm tells anything."""
    draw = lambda seed: keras.initializers.GlorotNormal(seed=seed)  # noqa: E731
    image = keras.Input((12, 16, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", kernel_initializer=draw(1), name="first")(image)
    y = keras.layers.DepthwiseConv2D(3, padding="same", depthwise_initializer=draw(2), name="depthwise")(x)
    y = keras.layers.Conv2D(8, 1, activation="gelu", kernel_initializer=draw(3), name="gelu")(y)
    x = keras.layers.Add(name="sum")([x, y])
    x = keras.layers.Concatenate(name="both")([keras.layers.MaxPooling2D(name="largest")(x), x[:, ::2, ::2]])
    x = keras.layers.Conv2DTranspose(6, 2, strides=2, kernel_initializer=draw(4), name="up")(x)
    score = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    score = keras.layers.Dense(4, activation="softmax", kernel_initializer=draw(5), name="score")(score)
    mask = keras.layers.Conv2D(1, 1, activation="sigmoid", kernel_initializer=draw(6), name="mask")(x)
    return keras.Model(image, [score, mask], name="without_batchnorm")


def hashes(paths: list[str], only: list[str], skipped: list[str]) -> dict[str, str]:
    """{"model: case": hash, or the error's class and text}; says on stderr how long each took."""
    models = {"demo": lambda: load_demo()[0], "without_batchnorm": _without_batchnorm}
    for path in paths:
        models[Path(path).stem] = lambda path=path: keras.models.load_model(path, compile=False)
    found = {}
    for name, make in models.items():
        model = make()
        for case, run in cases(model):
            if (only and not any(part in case for part in only)) or any(part in case for part in skipped):
                continue
            started = time.perf_counter()
            try:
                result = run()
            except (tfdatafree.TfdatafreeError, ValueError) as error:
                result = type(error).__name__
            found[f"{name}: {case}"] = result
            print(f"{name}: {case}: {result} ({time.perf_counter() - started:.1f} s)", file=sys.stderr, flush=True)
    return found


def main(arguments: list[str]) -> int:
    if len(arguments) < 3 or arguments[1] not in ("record", "check"):
        raise app.UsageError("give: record FILE.json or check FILE.json, and models if there are any")
    _, verb, file, *paths = arguments
    found = hashes(paths, _CASES.value, _SKIP.value)
    if verb == "record":
        Path(file).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    before = json.loads(Path(file).read_text(encoding="utf-8"))
    changed = [name for name in found if found[name] != before.get(name)]
    for name in changed:
        print(f"{name}: {before.get(name, 'not recorded')} -> {found[name]}")
    print(f"{len(found) - len(changed)} of {len(found)} are as before")
    return 1 if changed else 0


if __name__ == "__main__":
    app.run(main)
