"""Reads files of Keras 1 and 2 that Keras 3 refuses or takes for another model.

- Keras 2.2 and 2.3 wrote a Sequential model without an InputLayer. Keras 3 gives its first layer one axis too many if that is a
  Dense layer. The shape that the file states tells.
- `.keras` archives of Keras 2.12 to 2.14 name the modules of Keras and keep weights under another key than later ones.
- Keras 1 had other names for layers and for what they take. Neither Keras 3 nor tf_keras knows them.
"""

import copy
import inspect
import io
import json
import os
import tempfile
import zipfile
from typing import Any

import h5py
import keras

from tfdatafree.errors import LoadError
from tfdatafree.model.load_keras2 import drop_unknown_entries, load_keras2_file, serialized_objects

_MODELS = ("Sequential", "Functional", "Model")
# Where Keras 2.12 to 2.14 keep the layers of a model, and where later versions do.
OLD_KEY, NEW_KEY = "_layer_checkpoint_dependencies", "layers"


def has_written_shapes(model: Any, config: dict) -> bool:
    """Whether `model` and the models in it have the input shapes that `config`, from which it was loaded, states for them."""
    entries = config.get("config")
    layers = entries.get("layers") if isinstance(entries, dict) else entries
    if not isinstance(layers, list):
        return True
    if config.get("class_name") == "Sequential" and layers:
        written = layers[0]["config"].get("batch_input_shape")
        if written is not None and tuple(written[1:]) != tuple(model.input_shape[1:]):
            return False
    inner = [layer for layer in layers if layer.get("class_name") in _MODELS]
    by_name = {layer.name: layer for layer in model.layers}
    return all(
        has_written_shapes(by_name[layer["config"]["name"]], layer)
        for layer in inner
        if isinstance(layer.get("config"), dict) and layer["config"].get("name") in by_name
    )


def refuse_keras1(path: str, version: str) -> None:
    """Raises LoadError if `version`, of the Keras that wrote the file, is 1."""
    if version.startswith("1."):
        raise LoadError(
            f"'{path}' was written by Keras {version[:20]}, whose files neither Keras 3 nor tf_keras reads: load it with "
            "Keras 2.2.4, save it again, and pass that file."
        )


def load_keras2_archive(path: str, config: dict, unsafe: bool) -> Any:
    """Opens a `.keras` file of Keras 2.12 or later, or of tf_keras, as a tf_keras model.

    Raises:
        UnsupportedModelError: The file could run code, and `unsafe` is False.
        LoadError: tf_keras cannot load the file, or a package is missing.
    """
    retold = _retold(config)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        copy = os.path.join(folder, "model.keras")
        with zipfile.ZipFile(copy, "w") as changed:
            for name in archive.namelist():
                content = archive.read(name)
                if name == "config.json":
                    content = json.dumps(retold).encode()
                elif name == "model.weights.h5":
                    content = _with_new_keys(content)
                changed.writestr(name, content)
        return load_keras2_file(copy, retold, unsafe, name=path)


def _retold(config: Any) -> Any:
    """`config` with the module names of tf_keras for those of Keras 2."""
    if isinstance(config, list):
        return [_retold(part) for part in config]
    if not isinstance(config, dict):
        return config
    retold = {key: _retold(part) for key, part in config.items()}
    module = retold.get("module")
    if isinstance(module, str) and module.split(".")[0] == "keras":
        retold["module"] = f"tf_{module}"
    return retold


def _with_new_keys(content: bytes) -> bytes:
    """An HDF5 file with the keys of later versions."""
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        _rename(file)
    return buffer.getvalue()


def _rename(group: h5py.Group) -> None:
    if OLD_KEY in group:
        if NEW_KEY in group:
            del group[NEW_KEY]
        group.move(OLD_KEY, NEW_KEY)
    for part in group.values():
        if isinstance(part, h5py.Group):
            _rename(part)


def without_unknown_entries(config: dict) -> dict:
    """Returns `config` without those entries of layers that Keras 3 lacks and that have no effect: None, False, groups=1."""
    config = copy.deepcopy(config)
    for thing in serialized_objects(config):
        layer_class, entries = getattr(keras.layers, thing["class_name"], None), thing.get("config")
        if inspect.isclass(layer_class) and isinstance(entries, dict):
            drop_unknown_entries(layer_class, entries)
    return config
