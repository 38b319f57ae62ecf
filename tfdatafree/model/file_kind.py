"""Tells whether a file can be a Keras model, from its name and first bytes, without importing TensorFlow."""

import os
import re

from tfdatafree.errors import LoadError
from tfdatafree.limits import require_regular

_ZIP_MAGIC = b"PK\x03\x04"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

_COPY = "build the same network in Keras, copy the weights with layer.set_weights, and save it with model.save('model.keras')"
_FROM_PYTORCH = (
    f"{_COPY}; kernels (out, in, height, width) become (height, width, in, out), and dense ones are transposed"
)
_FROM_TENSORFLOW = (
    "rebuild the network with the Keras code that made it, load its weights, and save it with model.save('model.keras')"
)
# Ending -> what such a file is, and how its network gets to Keras.
_FOREIGN = {
    ".onnx": ("an ONNX file", _COPY),
    ".pt": ("a PyTorch file", _FROM_PYTORCH),
    ".pth": ("a PyTorch file", _FROM_PYTORCH),
    ".pt2": ("a PyTorch file", _FROM_PYTORCH),
    ".safetensors": ("a file of weights without their network", _FROM_PYTORCH),
    ".pb": ("a TensorFlow graph", _FROM_TENSORFLOW),
    ".ckpt": ("a TensorFlow checkpoint, which has no network", _FROM_TENSORFLOW),
    ".index": ("part of a TensorFlow checkpoint, which has no network", _FROM_TENSORFLOW),
    ".tflite": ("a converted file", "pass the Keras model that it was made of"),
}


def keras_file_kind(path: str) -> str:
    """ ".keras" or ".h5": what the file holds, which is also how its name ends (.hdf5 counts as .h5).

    Raises:
        LoadError: The file is missing, empty or of another kind. The message says how to get a Keras model from it.
    """
    if not os.path.exists(path):
        raise LoadError(f"'{path}' does not exist.")
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "saved_model.pb")):
            raise LoadError(
                f"'{path}' is a SavedModel, from which Keras 3 cannot rebuild layers: "
                "load it with the Keras version that wrote it, and save it with model.save('model.keras')."
            )
        raise LoadError(f"'{path}' is a directory and not a model: pass a .keras or .h5 file.")
    require_regular(path)
    extension = os.path.splitext(path)[1].lower()
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise LoadError(f"'{path}' cannot be read: {error.strerror or error}") from error
    if not head:
        raise LoadError(f"'{path}' is empty.")
    if extension in _FOREIGN:
        what, advice = _FOREIGN[extension]
        raise LoadError(f"'{path}' is {what}, and tfdatafree takes Keras models: {advice}.")
    kind = ".keras" if head.startswith(_ZIP_MAGIC) else ".h5" if head == _HDF5_MAGIC else None
    if extension not in (".keras", ".h5", ".hdf5"):
        known = f"rename it to {kind}, whose data it holds" if kind else "pass a .keras, .h5 or .hdf5 file"
        raise LoadError(f"'{path}' ends in '{extension}': {known}.")
    if kind is None:
        raise LoadError(f"'{path}' is not a Keras file: it holds neither a zip archive (.keras) nor HDF5 (.h5).")
    if (kind == ".keras") != (extension == ".keras"):
        raise LoadError(f"'{path}' holds the data of a {kind} file: rename it so that it ends in {kind}.")
    return kind


def is_newer(version: str, installed: str) -> bool:
    """Whether `version`, as a file states it, is of a later major or minor version than `installed`."""
    return _numbers(version) > _numbers(installed)


def _numbers(version: str) -> tuple[int, ...]:
    """(3, 15) of "3.15.1"; () of what is no version."""
    parts = version.split(".")[:2]
    return tuple(map(int, parts)) if all(re.fullmatch("[0-9]{1,9}", part) for part in parts) else ()
