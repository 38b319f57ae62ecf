"""The tables of TFLite's metadata ("TFLM", file identifier M001) that this package writes and reads, as plain dicts.

The fields stand in the order of the schema, on which a flatbuffer depends; tables that are never written are left out.
Source: github.com/tensorflow/tflite-support, tensorflow_lite_support/metadata/metadata_schema.fbs, version 1.5.0.
"""

from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers.number_types import Float32Flags, Int8Flags
from flatbuffers.table import Table

IDENTIFIER = b"M001"
# The parser version that knows all that is written.
PARSER_VERSION = "1.0.0"
RGB, GRAYSCALE = 1, 2
AXIS_LABELS = 2

# What a field holds: a text, an enum, floats; a tuple for a table of one of these kinds, a list for a vector of tables. None is
# for fields that are not used. A table of several kinds is a union: the field before it, an enum, tells which.
_TEXT, _ENUM, _FLOATS = "text", "enum", "floats"
_FIELDS: dict[str, dict[str, Any]] = {
    "ModelMetadata": {
        "name": _TEXT,
        "description": _TEXT,
        "version": _TEXT,
        "subgraph_metadata": ["SubGraphMetadata"],
        "author": _TEXT,
        "license": _TEXT,
        "associated_files": ["AssociatedFile"],
        "min_parser_version": _TEXT,
    },
    "SubGraphMetadata": {
        "name": _TEXT,
        "description": _TEXT,
        "input_tensor_metadata": ["TensorMetadata"],
        "output_tensor_metadata": ["TensorMetadata"],
    },
    "TensorMetadata": {
        "name": _TEXT,
        "description": _TEXT,
        "dimension_names": None,
        "content": ("Content",),
        "process_units": ["ProcessUnit"],
        "stats": ("Stats",),
        "associated_files": ["AssociatedFile"],
    },
    "Content": {"kind": _ENUM, "properties": ("FeatureProperties", "ImageProperties")},
    "FeatureProperties": {},
    "ImageProperties": {"color_space": _ENUM},
    "ProcessUnit": {"kind": _ENUM, "options": ("NormalizationOptions", None)},
    "NormalizationOptions": {"mean": _FLOATS, "std": _FLOATS},
    "Stats": {"max": _FLOATS, "min": _FLOATS},
    "AssociatedFile": {"name": _TEXT, "description": _TEXT, "type": _ENUM},
}


def write_metadata(values: Mapping[str, Any]) -> bytes:
    """The flatbuffer of a ModelMetadata.

    Args:
        values: Field -> text, number, list of floats, dict for a table, list of dicts. A union's `kind` tells its table: 1 for
            the first of its kinds.
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(_table(builder, "ModelMetadata", values), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, kind: str, values: Mapping[str, Any]) -> int:
    fields = _FIELDS[kind]
    offsets = {
        name: _offset(builder, fields[name], value, values) for name, value in values.items() if fields[name] != _ENUM
    }
    builder.StartObject(len(fields))
    for slot, name in enumerate(fields):
        if name in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[name], 0)
        elif name in values:
            builder.PrependInt8Slot(slot, values[name], 0)
    return builder.EndObject()


def _offset(builder: flatbuffers.Builder, holds: Any, value: Any, beside: Mapping[str, Any]) -> int:
    if holds == _TEXT:
        return builder.CreateString(value)
    if holds == _FLOATS:
        return builder.CreateNumpyVector(np.asarray(value, np.float32))
    if isinstance(holds, tuple):
        return _table(builder, holds[beside.get("kind", 1) - 1], value)
    offsets = [_table(builder, holds[0], part) for part in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def read_metadata(content: bytes) -> dict[str, Any]:
    """The fields that a ModelMetadata has, in the form that `write_metadata` takes.

    Raises:
        ValueError: It is of another format, or damaged.
    """
    if content[4:8] != IDENTIFIER:
        raise ValueError(f"the metadata's identifier is {content[4:8]!r}, not {IDENTIFIER!r}.")
    try:
        buffer = bytearray(content)
        root = int(np.frombuffer(content, np.uint32, 1)[0])
        return _values(Table(buffer, root), "ModelMetadata")
    except Exception as error:  # a damaged table can raise struct, index, value, type and other errors
        raise ValueError("the metadata is truncated or damaged.") from error


def _values(table: Table, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for slot, (name, holds) in enumerate(_FIELDS[kind].items()):
        offset = table.Offset(4 + 2 * slot)
        if offset and holds is not None:
            value = _value(table, offset, holds, found.get("kind", 1))
            if value is not None:
                found[name] = value
    return found


def _value(table: Table, offset: int, holds: Any, which: int) -> Any:
    if holds == _TEXT:
        return table.String(offset + table.Pos).decode()
    if holds == _ENUM:
        return int(table.Get(Int8Flags, offset + table.Pos))
    if isinstance(holds, tuple):
        kind = holds[which - 1] if 0 < which <= len(holds) else None
        return None if kind is None else _values(Table(table.Bytes, table.Indirect(offset + table.Pos)), kind)
    count, start = table.VectorLen(offset), table.Vector(offset)
    if count * 4 > len(table.Bytes):
        raise ValueError("a vector is longer than the file.")
    if holds == _FLOATS:
        return [float(table.Get(Float32Flags, start + 4 * at)) for at in range(count)]
    return [_values(Table(table.Bytes, table.Indirect(start + 4 * at)), holds[0]) for at in range(count)]
