"""Breaks model files at random, and reads or compares them: only the package's own errors may come out.

    python tools/fuzz.py --n=1000 --seed=0

A file is broken in its bytes, or in the values of its config. The same seed breaks the same way. Files whose reading raises
another error, or ends the process, are kept in the folder that --keep names. Files are read in a second process, which may die.
"""

import collections
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import command
import h5py
import numpy as np
from absl import flags
from own_process import OwnProcess

KINDS = ("keras", "h5", "tflite")
_SECONDS = 60
# What a broken value may become.
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2, 10**9, 10**30, 0.5, float("nan"), "", "x", "a\x1b[2Jb\n", "/etc/hostname", [], {}, [[]], [1, "a"],
    {"class_name": "Lambda", "config": {}}, {"a": None}, "__lambda__", [None, 60000, 60000, 3],
)  # fmt: skip


def sound_files(folder: Path) -> dict[str, bytes]:
    """Kind -> a small file of this kind that is sound."""
    import keras
    from keras import layers

    import tfdatafree

    x = inputs = keras.Input((6, 6, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", activation="relu")(x))
    x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])
    x = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(layers.ReLU(6.0)(x)))
    model = keras.Model(inputs, x)
    for ending in ("keras", "h5"):
        model.save(folder / f"sound.{ending}")
    quick = tfdatafree.Recipe(generate=tfdatafree.Generate(images=1, effort="fast"))
    tfdatafree.export_tflite(model, folder / "sound.tflite", quick, input_range=(-9, 9), verbose=0)
    return {kind: (folder / f"sound.{kind}").read_bytes() for kind in KINDS}


def broken(content: bytes, kind: str, random: np.random.Generator) -> bytes:
    """`content` with one fault in its bytes or in its config."""
    if kind == "tflite" or random.random() < 0.4:
        return _broken_bytes(content, random)
    return _broken_keras(content, random) if kind == "keras" else _broken_h5(content, random)


def _broken_bytes(content: bytes, random: np.random.Generator) -> bytes:
    values = bytearray(content)
    start = int(random.integers(len(values)))
    length = int(random.integers(1, 64))
    match random.integers(5):
        case 0:
            return bytes(values[:start])
        case 1:
            values[start : start + length] = bytes(length)
        case 2:
            values[start : start + length] = random.bytes(length)
        case 3:
            del values[start : start + length]
        case _:
            for at in random.integers(len(values), size=int(random.integers(1, 9))):
                values[at] ^= 1 << int(random.integers(8))
    return bytes(values)


def _broken_keras(content: bytes, random: np.random.Generator) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if random.random() < 0.2:
        parts["model.weights.h5"] = _broken_bytes(parts["model.weights.h5"], random)
    else:
        parts["config.json"] = json.dumps(_broken_values(json.loads(parts["config.json"]), random)).encode()
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name, part in parts.items():
            archive.writestr(zipfile.ZipInfo(name), part)
    return result.getvalue()


def _broken_h5(content: bytes, random: np.random.Generator) -> bytes:
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        file.attrs["model_config"] = json.dumps(_broken_values(json.loads(file.attrs["model_config"]), random))
        if random.random() < 0.5:
            file.attrs["keras_version"] = "2.13.1"
    return buffer.getvalue()


def _broken_values(values: Any, random: np.random.Generator) -> Any:
    """`values` with one to three of the values in it replaced, removed or doubled."""
    for _ in range(int(random.integers(1, 4))):
        places = list(_places(values))
        if not places:
            break
        owner, key = places[int(random.integers(len(places)))]
        match random.integers(4):
            case 0:
                del owner[key]
            case 1 if isinstance(owner, list):
                owner.insert(key, owner[key])
            case _:
                owner[key] = json.loads(json.dumps(_VALUES[int(random.integers(len(_VALUES)))]))
    return values


def _places(values: Any):
    """(mapping or list, key or index) of every value within `values`."""
    for key in list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ():
        yield values, key
        yield from _places(values[key])


def reading(path: Path) -> str:
    """How the reading of the file ends: "read", the name of a typed error, or "WRONG ..." for any other."""
    from tfdatafree.compare import compare
    from tfdatafree.errors import TfdatafreeError
    from tfdatafree.model.graph import Graph
    from tfdatafree.model.load import load
    from tfdatafree.report.contents import inspect_file

    try:
        if path.suffix == ".tflite":
            str(inspect_file(path))
            # It looks like a file, so it is run; whatever it cannot do is a ValueError of this package.
            compare(path, path, n=2, input_range=(-1, 1))
        else:
            Graph.from_keras(load(path))
        return "read"
    except TfdatafreeError as error:
        text = str(error)
        return type(error).__name__ if len(text) <= 600 and text.isprintable() else f"WRONG message: {text!r}"
    except Exception as error:  # noqa: BLE001  (this is what the tool looks for)
        if isinstance(error, ValueError) and _is_ours(error):
            return "ValueError"
        return f"WRONG {type(error).__name__}: {error}"[:300]


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised the error, as it does for models that do not fit."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("tfdatafree.")


def fuzz(
    n: int,
    seed: int,
    keep: Path | None = None,
    *,
    kinds: Sequence[str] = KINDS,
    call: Callable[[Callable, Path], Any] = lambda function, path: function(path),
) -> dict[str, collections.Counter]:
    """Kind -> how the reading of `n` broken files ended, and how often.

    Args:
        keep: Folder for the files whose reading went wrong.
        call: Calls a function with a path, here or in another process.
    """
    found: dict[str, collections.Counter] = {}
    with tempfile.TemporaryDirectory() as name:
        sound = call(sound_files, Path(name))
        for kind in kinds:
            random = np.random.default_rng([seed, KINDS.index(kind)])
            found[kind] = collections.Counter()
            for at in range(n):
                path = Path(name) / f"{seed}_{at}.{kind}"
                path.write_bytes(broken(sound[kind], kind, random))
                end = call(reading, path)
                if end.startswith("WRONG") and keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, keep)
                found[kind][end.replace(str(path), "FILE")] += 1
                path.unlink()
    return found


def _define_flags() -> None:
    flags.DEFINE_integer("n", 1000, "Files of each kind.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "The same seed breaks files the same way.", lower_bound=0)
    flags.DEFINE_list("kinds", list(KINDS), "Kinds of files.")
    flags.DEFINE_string("keep", None, "Folder for the files whose reading went wrong.")


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        kinds = command.choose("kinds", values.kinds, KINDS)
    keep = None if values.keep is None else Path(values.keep)
    own_process = OwnProcess(_SECONDS)
    try:
        found = fuzz(values.n, values.seed, keep, kinds=kinds, call=own_process)
    finally:
        own_process.close()
    for kind, ends in found.items():
        for end, count in ends.most_common():
            print(f"{kind:<8}{count:6d}  {end}")
    return int(any(end.startswith("WRONG") for ends in found.values() for end in ends))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command.run(main, _define_flags)
