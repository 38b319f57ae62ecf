"""What a file says of itself: TFLite's metadata, labels, and an entry of this package's own.

    metadata "TFLITE_METADATA"   for people and apps: names, how pixels become inputs, labels
    metadata "tfdatafree"        JSON: version, recipe, arguments, SHA-256 of the weights that it was made of
    after the flatbuffer         a zip archive with labels.txt, if there are labels

Source: https://ai.google.dev/edge/litert/conversion/tensorflow/metadata
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfdatafree.tflite.flatbuffer import DESCRIPTION, File
from tfdatafree.tflite.metadata_schema import (
    AXIS_LABELS,
    GRAYSCALE,
    PARSER_VERSION,
    RGB,
    read_metadata,
    write_metadata,
)
from tfdatafree.version import __version__

STANDARD_ENTRY, OWN_ENTRY = "TFLITE_METADATA", DESCRIPTION
LABELS_FILE = "labels.txt"
_COLOURS = {1: GRAYSCALE, 3: RGB}
_FEATURE, _IMAGE = 1, 2
_NORMALIZATION = 1
# Digits of the weights' hash that stand for the model's version.
_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class InputAbout:
    """What is known of an input.

    Attributes:
        low, high: Range of its real values.
        estimated: Whether the range is estimated; else the user or a layer tells it.
        is_picture: Whether it takes pictures of 1 or 3 channels.
        mean, std: Its real values are (p - mean) / std for pixels p from 0 to 255: one for all channels, or one each; empty
            where that is not known.
    """

    low: float
    high: float
    estimated: bool
    is_picture: bool
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class About:
    """What a file tells of its making.

    Attributes:
        model: Name of the model.
        weights: SHA-256 of the model's weights, in hexadecimal.
        recipe: The recipe, as plain values.
        call: Other arguments that decided the result, as plain values.
        inputs: One per input, in the file's order.
        labels: Names of the entries of the last axis of an output; empty if none were given.
    """

    model: str
    weights: str
    recipe: Mapping[str, Any]
    call: Mapping[str, Any]
    inputs: tuple[InputAbout, ...]
    labels: tuple[str, ...] = ()

    def after(self, change: str) -> "About":
        """The same after its weights were changed in the way that `change` names."""
        return dataclasses.replace(self, call={**self.call, "recovered": change})


def serialize(file: File, about: About | None) -> bytes:
    """The bytes of `file`, which is signed, with what `about` says; None: nothing. Equal arguments make equal bytes."""
    if about is None:
        return file.serialize()
    file = file.copy()
    file.set_metadata(STANDARD_ENTRY, write_metadata(_standard(file, about)))
    own = {"version": __version__, "weights": about.weights, "recipe": about.recipe, "call": about.call}
    file.set_metadata(OWN_ENTRY, json.dumps(own, separators=(",", ":"), sort_keys=True).encode())
    content = file.serialize()
    return _with_file(content, LABELS_FILE, "\n".join(about.labels)) if about.labels else content


def _standard(file: File, about: About) -> dict[str, Any]:
    inputs = [
        _input(file, index, name, known)
        for index, name, known in zip(file.inputs, file.input_names(), about.inputs, strict=True)
    ]
    outputs = [
        _output(file, index, name, about.labels) for index, name in zip(file.outputs, file.output_names(), strict=True)
    ]
    return {
        "name": about.model,
        "description": f"recipe {about.recipe.get('name')} of tfdatafree {__version__}",
        "version": about.weights[:_DIGITS],
        "subgraph_metadata": [{"input_tensor_metadata": inputs, "output_tensor_metadata": outputs}],
        "min_parser_version": PARSER_VERSION,
    }


def _input(file: File, index: int, name: str, known: InputAbout) -> dict[str, Any]:
    text = f"values in [{known.low:g}, {known.high:g}]{' (estimated)' if known.estimated else ''}"
    found: dict[str, Any] = {"name": name, "content": _FEATURE_CONTENT}
    if known.is_picture:
        colours = _COLOURS[file.shape(index)[-1]]
        found["content"] = {"kind": _IMAGE, "properties": {"color_space": colours}}
    if known.mean:
        options = {"mean": known.mean, "std": known.std}
        found["process_units"] = [{"kind": _NORMALIZATION, "options": options}]
        text += f"; x = (pixel - {_numbers(known.mean)}) / {_numbers(known.std)}"
    if file.quantizer(index) is not None:
        text += "; q = round(x / scale) + zero_point"
    return {**found, "description": text, "stats": {"max": [known.high], "min": [known.low]}}


def _numbers(values: Sequence[float]) -> str:
    text = ", ".join(f"{value:.6g}" for value in values)
    return text if len(values) == 1 else f"({text})"


_FEATURE_CONTENT = {"kind": _FEATURE, "properties": {}}


def _output(file: File, index: int, name: str, labels: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "content": _FEATURE_CONTENT}
    if labels and file.shape(index)[-1:] == (len(labels),):
        found["associated_files"] = [
            {"name": LABELS_FILE, "description": "names of the last axis", "type": AXIS_LABELS}
        ]
    return found


def _with_file(content: bytes, name: str, text: str) -> bytes:
    """The file with a zip archive behind it. Its parts are not compressed: apps read them where they lie."""
    part = zipfile.ZipInfo(name)  # without a time of its own, it is from 1980
    part.create_system = 3
    together = io.BytesIO(content)
    with zipfile.ZipFile(together, "a") as archive:
        archive.writestr(part, text)
    return together.getvalue()


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The metadata of a file from anybody.

    Attributes:
        standard: Fields of TFLite's metadata, by their names in the schema; empty without any.
        own: This package's entry: version, weights, recipe, call; empty without one.
        files: Name of each file in the archive behind the flatbuffer -> its bytes.
    """

    standard: Mapping[str, Any]
    own: Mapping[str, Any]
    files: Mapping[str, int]

    def __str__(self) -> str:
        lines = []
        if self.own:
            recipe = dict(self.own.get("recipe") or {}).get("name")
            lines.append(f"made by tfdatafree {self.own.get('version')}, recipe {recipe}")
            lines.append(f"weights of the model: SHA-256 {self.own.get('weights')}")
        title = [str(self.standard[key]) for key in ("name", "version", "description") if key in self.standard]
        lines += [", ".join(title)] if title else []
        for graph in self.standard.get("subgraph_metadata", []):
            for kind in ("input", "output"):
                for tensor in graph.get(f"{kind}_tensor_metadata", []):
                    what = "image" if tensor.get("content", {}).get("kind") == _IMAGE else "values"
                    told = [what, *([tensor["description"]] if tensor.get("description") else [])]
                    told += [f"labels in {file.get('name')}" for file in tensor.get("associated_files", [])]
                    lines.append(f"{kind} {tensor.get('name')}: {', '.join(told)}")
        lines += [f"file {name}, {size:,} bytes" for name, size in self.files.items()]
        return "\n".join(lines)


def find_metadata(content: bytes) -> Metadata:
    """The metadata of a TFLite file.

    Raises:
        ValueError: It is damaged.
    """
    file = File.parse(content)
    standard, own = file.metadata(STANDARD_ENTRY), file.metadata(OWN_ENTRY)
    files: dict[str, int] = {}
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {part.filename: part.file_size for part in archive.infolist()}
    values = {} if own is None else json.loads(own)
    if not isinstance(values, dict):
        raise ValueError(f"the metadata '{OWN_ENTRY}' is no JSON object.")
    return Metadata(standard={} if standard is None else read_metadata(standard), own=values, files=files)
