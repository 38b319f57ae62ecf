"""Model files from anybody: what they claim is checked before Keras unpacks, builds or runs anything.

So that a refused file has run no code, has led to no other file, and has taken little memory and time.
"""

import contextlib
import io
import json
import math
import mmap
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import keras
import tensorflow as tf

from tfdatafree.errors import LoadError, UnsupportedModelError
from tfdatafree.limits import MOST_TEXT, require_memory, require_plain, require_sound_sizes, short
from tfdatafree.model.load_keras2 import TRUST, config_label, serialized_objects

_SMALLER = "take a smaller model"
# How a global heap begins: its name, version 1 and three reserved bytes.
_HEAP = b"GCOL\x01\0\0\0"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# A layer has a few weights more than its file, such as the state of random numbers, and loading may copy them once.
_BYTES_PER_VALUE, _SPARE_BYTES = 16, 2**26
# Entries by which a layer names a file that it reads while it is built.
_FILE_ENTRIES = ("vocabulary", "idf_weights", "filepath")


def read_part(archive: zipfile.ZipFile, name: str) -> Any:
    """The JSON in a part of a .keras archive. Raises KeyError without this part, LoadError if it is too large."""
    if archive.getinfo(name).file_size > MOST_TEXT:
        raise LoadError(
            f"'{archive.filename}' has a {name} of more than {MOST_TEXT // 2**20} MB; no real model needs it."
        )
    return read_json(archive.read(name), f"{name} in '{archive.filename}'")


def read_json(text: str | bytes, what: str) -> Any:
    """The values in `text`, few and shallow enough for recursive code."""
    if len(text) > MOST_TEXT:
        raise LoadError(f"{what} takes more than {MOST_TEXT // 2**20} MB; no real model needs it.")
    try:
        values = json.loads(text)
    except (RecursionError, ValueError) as error:
        reason = (
            str(error).splitlines()[0] if isinstance(error, json.JSONDecodeError) else "too deep, or too many digits"
        )
        raise LoadError(f"{what} is damaged: {reason}.") from error
    require_plain(values, what)
    return values


def require_sound_config(config: Any, path: str, *, unsafe: bool) -> None:
    """Checks what Keras and this package take for granted in a model's config.

    Raises:
        LoadError: It is no mapping, or a name in it is no plain text.
        UnsupportedModelError: A layer would read a file that it names, and `unsafe` is False.
    """
    if not isinstance(config, dict):
        raise LoadError(f"'{path}' is damaged: its config is {short(config)} and not a mapping.")
    for thing in _mappings(config):
        for entry in ("class_name", "module", "registered_name", "name"):
            value = thing.get(entry)
            if entry in thing and entry != "name" and value is not None and not isinstance(value, str):
                raise LoadError(f"'{path}' is damaged: {entry} is {short(value)} and not a text.")
            if isinstance(value, str) and not value.isprintable():
                raise LoadError(f"'{path}' has control characters in the {entry} {short(value)}; give it a plain text.")
    for thing in serialized_objects(config):
        entries = thing.get("config")
        name = entries.get("name") if isinstance(entries, dict) else None
        if name is not None and not isinstance(name, str):
            raise LoadError(
                f"'{path}' is damaged: the name of a {thing['class_name']} is {short(name)} and not a text."
            )
        if not unsafe and isinstance(entries, dict) and any(isinstance(entries.get(key), str) for key in _FILE_ENTRIES):
            raise UnsupportedModelError(f"{config_label(thing)} in '{path}' would read a file that it names. {TRUST}")


def _mappings(values: Any) -> Iterator[dict]:
    if isinstance(values, dict):
        yield values
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from _mappings(value)


def require_sound_parts(archive: zipfile.ZipFile) -> None:
    """Raises LoadError if a part of a .keras archive would fill the memory, or holds no weights where they should be."""
    path = archive.filename
    require_sound_sizes(archive, _SMALLER)
    for part in archive.infolist():
        if part.filename.endswith(".h5"):
            with archive.open(part) as content:
                if content.read(len(_HDF5_MAGIC)) != _HDF5_MAGIC:
                    raise LoadError(f"'{path}' is damaged: its part {short(part.filename)} does not hold HDF5.")


def archive_values(archive: zipfile.ZipFile) -> int:
    """The number of values in the weights of a .keras archive, at most, by its headers. Raises as `count_values`."""
    values = 0
    for part in archive.infolist():
        if not part.filename.endswith(".h5"):
            values += part.file_size
            continue
        with archive.open(part) as content:
            unpacked = None if part.compress_type == zipfile.ZIP_STORED else content.read()
            require_sound_heaps(str(archive.filename), unpacked)
            with h5py.File(content if unpacked is None else io.BytesIO(unpacked), "r") as file:
                values += count_values(file, str(archive.filename))
    return values


def require_sound_heaps(path: str, content: bytes | None = None) -> None:
    """Raises LoadError for HDF5 that the HDF5 library would read without end.

    It walks the objects of each global heap, which holds texts, by their sizes: one of no bytes leads to itself.

    Args:
        content: The bytes to search; None for those of the file `path`.
    """
    if content is not None:
        data: bytes | mmap.mmap = content
    else:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    at = data.find(_HEAP)
    while at >= 0:
        size = int.from_bytes(data[at + 8 : at + 16], "little")
        place, end = at + 16, min(at + size, len(data))
        while place + 16 <= end:
            index, length = struct.unpack("<H6xQ", data[place : place + 16])
            taken = ((length + 7) // 8 * 8 + (16 if index else 0)) % 2**64
            if not taken:
                raise LoadError(f"'{path}' is damaged: an object in its HDF5 heap takes no bytes.")
            place += taken
        at = data.find(_HEAP, at + 1)


def count_values(file: h5py.Group, path: str) -> int:
    """The number of values in the datasets of an HDF5 file, by its headers.

    Raises:
        LoadError: They are beyond the memory limit, or stand in other files.
    """
    values = n_bytes = 0
    groups = [file]
    seen = set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise LoadError(
                    f"'{path}' is no model file: {short(name)} in it leads elsewhere ({type(link).__name__})."
                )
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset) and item.shape is not None:
                if item.external or item.is_virtual:
                    raise LoadError(f"'{path}' is no model file: the values of {short(name)} stand in another file.")
                values += math.prod(item.shape)
                n_bytes += math.prod(item.shape) * item.dtype.itemsize
    require_memory(f"the weights that '{path}' claims to hold", n_bytes, _SMALLER, LoadError)
    return values


@contextlib.contextmanager
def limited_weights(path: str, values: int) -> Iterator[None]:
    """Within it, layers whose config asks for far more weights than the `values` of the file are not given any.

    Raises:
        LoadError: They ask for more; nothing of that was allocated.
    """
    sizes, most = tf.Graph(), _BYTES_PER_VALUE * values + _SPARE_BYTES
    asked = 0

    def counted(create, **arguments):
        nonlocal asked
        asked += _bytes_of(arguments, sizes)
        if asked > most:
            raise MemoryError("more weights than the file holds")
        return create(**arguments)

    try:
        with tf.variable_creator_scope(counted):
            yield
    except Exception as error:
        if asked > most:
            raise LoadError(
                f"'{path}' is damaged: its layers ask for weights of at least {asked / 1e9:.3g} GB, but it holds {values} "
                "numbers."
            ) from error
        raise


def _bytes_of(arguments: dict[str, Any], sizes: tf.Graph) -> int:
    """The bytes of a variable that is about to be made. Its value is only described, in the graph `sizes`."""
    shape, dtype, value = arguments.get("shape"), arguments.get("dtype"), arguments.get("initial_value")
    if shape is None or not tf.TensorShape(shape).is_fully_defined():
        # Keras 3 asks by a function that knows its variable. To describe its value instead takes milliseconds.
        cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        value = next((thing for thing in cells if isinstance(thing, keras.Variable)), value)
        if callable(value) and not isinstance(value, keras.Variable):
            with sizes.as_default():
                value = tf.convert_to_tensor(value())
        shape = getattr(value, "shape", ())
    itemsize = 4 if dtype is None else tf.as_dtype(dtype).size or 4
    return math.prod(tf.TensorShape(shape).as_list()) * itemsize
