"""Describes the contents of any TFLite file: operators, types, grids and sizes."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfdatafree.errors import ExportError, LoadError
from tfdatafree.limits import memory_limit, require_regular
from tfdatafree.runtimes.runtime import one_line
from tfdatafree.targets.aot import CompiledForChip
from tfdatafree.targets.check import check_target
from tfdatafree.targets.compiler import ask_compiler
from tfdatafree.targets.registry import get_target
from tfdatafree.targets.target import Target, TargetCheck
from tfdatafree.targets.vela import NpuSizes
from tfdatafree.tflite.arena import arena_bytes
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.metadata import find_metadata
from tfdatafree.tflite.sizes import macs
from tfdatafree.tflite.trial import death_of

# Seconds that a file from elsewhere may take for its first input.
_MOST_SECONDS = 60.0
_MOST_BYTES = 2**31  # offsets in flatbuffers are signed numbers of 32 bits
_TYPE_NAMES = {code: name.lower() for name, code in vars(schema.TensorType).items() if name.isupper()}
# Limits of the integers of activations and kernels. Biases (int32, int64) are never near their limits, so they are not here.
_LIMITS = {"int4": (-8, 7), "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


@dataclass(frozen=True, kw_only=True)
class TensorSummary:
    """One tensor of a file.

    Attributes:
        name: Name in the file.
        writer: Operator that computes it; "input" for a model input, "constant" for weights, biases and other constants.
        dtype: "int8", "float32" ...
        shape: Sizes; the first one of an activation is the batch.
        bytes: Size in the file; 0 unless it is a constant.
        scales: float32 vector: empty for a tensor without a grid, one entry, or one per channel.
        zero_points: int64 vector as long as `scales`.
    """

    name: str
    writer: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    scales: np.ndarray
    zero_points: np.ndarray

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Lowest and highest float value that the integers stand for; None without a grid, and for biases."""
        if not len(self.scales) or self.dtype not in _LIMITS:
            return None
        lowest, highest = _LIMITS[self.dtype]
        scales, zero_points = self.scales.astype(np.float64), self.zero_points
        return float(np.min(scales * (lowest - zero_points))), float(np.max(scales * (highest - zero_points)))


@dataclass(frozen=True, kw_only=True)
class FileSummary:
    """A file's contents; `print` it.

    Attributes:
        bytes: Size of the file.
        subgraphs: Number of graphs in it; only the first is described.
        inputs, outputs: In the file's order.
        operators: Operator name -> how often it occurs, most frequent first.
        integer_operators: Number of operators that neither read nor write a float tensor.
        macs: Multiplications of one inference in convolutions and dense layers.
        arena: Bytes of memory for activations as a runtime plans them, without what kernels need for themselves; None if the
            size of a tensor is not known.
        tensors: The inputs, then the constants and outputs of each operator.
        metadata: What the file says of its making and its use, in lines; "" if it says nothing.
    """

    bytes: int
    subgraphs: int
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]
    operators: dict[str, int]
    integer_operators: int
    macs: int
    arena: int | None
    tensors: tuple[TensorSummary, ...]
    metadata: str = ""

    @property
    def integer_share(self) -> float:
        """Fraction of integer operators, 0 to 1; 0 for a file without operators."""
        return self.integer_operators / max(sum(self.operators.values()), 1)

    def __str__(self) -> str:
        total = sum(self.operators.values())
        # Rounded down, so that 100 % means that nothing computes in float.
        share = int(100 * self.integer_share)
        lines = [f"size       {self.bytes:,} bytes"]
        if self.subgraphs > 1:
            lines.append(f"subgraphs  {self.subgraphs}; only the first is described")
        lines.append(f"operators  {total}, of which {self.integer_operators} compute in integers only ({share} %)")
        lines.append(f"MACs       {self.macs:,} in convolutions and dense layers")
        if self.arena is not None:
            lines.append(
                f"RAM        {self.arena:,} bytes for activations as planned; what kernels need for themselves is on top"
            )
        width = max((len(tensor.name) for tensor in (*self.inputs, *self.outputs)), default=0)
        for title, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            lines += ["", title, *(f"  {tensor.name:<{width}}  {_edge(tensor)}" for tensor in tensors)]
        lines += ["", "operators", *(f"  {count:>5}  {name}" for name, count in self.operators.items())]
        if self.metadata:
            lines += ["", "metadata", *(f"  {line}" for line in self.metadata.splitlines())]
        lines += ["", *self._constants()]
        return "\n".join(lines)

    def tensor_table(self) -> str:
        """All tensors as text: who writes each, its type, shape, bytes and grid."""
        return "\n".join(["tensors", *_table(self.tensors)])

    def _constants(self) -> Iterator[str]:
        constants = [tensor for tensor in self.tensors if tensor.bytes]
        yield f"weights    {sum(tensor.bytes for tensor in constants):,} bytes in {len(constants)} tensors"
        sizes: Counter[str] = Counter()
        for tensor in constants:
            sizes[tensor.dtype] += tensor.bytes
        for dtype, size in sizes.most_common():
            yield f"  {dtype:<8}  {size:,} bytes"


def read_tflite(path: str | os.PathLike) -> bytes:
    """Content of a TFLite file.

    Raises:
        LoadError: There is no such file, or it is not a TFLite file.
    """
    path = Path(path)
    if not path.exists():
        raise LoadError(f"'{path}' does not exist.")
    if path.is_dir():
        raise LoadError(f"'{path}' is a directory; pass a .tflite file.")
    if require_regular(path) > _MOST_BYTES:
        raise LoadError(f"'{path}' is larger than 2 GB, the most that a TFLite file can be.")
    content = path.read_bytes()
    if not content:
        raise LoadError(f"'{path}' is empty.")
    if content[4:8] != b"TFL3":
        raise LoadError(f"'{path}' is not a TFLite file: it does not have the identifier 'TFL3'.")
    return content


def read_runnable(path: str | os.PathLike) -> bytes:
    """Content of a TFLite file from anybody that LiteRT can run. A process of its own tries it first.

    Raises:
        LoadError: The file is missing or damaged, or LiteRT dies of it.
    """
    inspect_file(path)
    content = read_tflite(path)
    death = death_of(content, seconds=_MOST_SECONDS, most_bytes=int(memory_limit()))
    if death is not None:
        raise LoadError(f"'{path}' cannot be run by LiteRT: {death}. It is most likely damaged.")
    return content


def inspect_file(path: str | os.PathLike) -> FileSummary:
    """Describes the TFLite file at `path`.

    Raises:
        LoadError: The file is missing, damaged or not a TFLite file.
    """
    content = read_tflite(path)
    try:
        summary = _summarize(content)
        str(summary), summary.tensor_table()  # a file whose contents cannot be shown is damaged, too
        return summary
    except Exception as error:  # a damaged table can raise struct, index, value, type and other errors
        raise LoadError(f"'{path}' is truncated or damaged.") from error


@dataclass(frozen=True, kw_only=True)
class TargetSummary:
    """What a target computes of a file; `print` it.

    Attributes:
        check: Result of the target's profile, or of its compiler if that is installed.
        compiled: The compiler's figures; None if there is no compiler, or it is not installed.
        hint: How to get the compiler, or what it lacks; "" for nothing.
    """

    check: TargetCheck
    compiled: NpuSizes | CompiledForChip | None = None
    hint: str = ""

    def __str__(self) -> str:
        lines = [f"target     {self.check}"]
        for name, reason in self.check.refused.items():
            lines += [f"  {name}", f"    {reason}"]
        if self.compiled is not None:
            lines += ["", str(self.compiled)]
        if self.hint:
            lines += ["", self.hint]
        return "\n".join(lines)


def inspect_target(path: str | os.PathLike, target: str | Target) -> TargetSummary:
    """Describes which operators of the TFLite file at `path` a target computes itself.

    Raises:
        LoadError: The file is missing, damaged or not a TFLite file.
        ExportError: The target cannot use the file.
        ValueError: There is no such target.
    """
    target = get_target(target)
    content = read_tflite(path)
    try:
        check = check_target(content, target)
    except ExportError:
        raise
    except Exception as error:  # as above
        raise LoadError(f"'{path}' is truncated or damaged.") from error
    return TargetSummary(**ask_compiler(check, content, target)._asdict())


def _summarize(content: bytes) -> FileSummary:
    file = File.parse(content)
    names = [file.operator_name(operator) for operator in file.operators]
    tensors = {index: _tensor(file, index, "input") for index in file.inputs}
    integer_operators = 0
    counted_buffers: set[int] = set()
    for name, operator in zip(names, file.operators, strict=True):
        read, written = ([index for index in indices if index >= 0] for indices in (operator.inputs, operator.outputs))
        for index in read:
            if index not in tensors:
                buffer = file.tensors[index].buffer
                tensors[index] = _tensor(file, index, "constant", shared=buffer in counted_buffers)
                counted_buffers.add(buffer)
        for index in written:
            tensors[index] = _tensor(file, index, name)
        integer_operators += not any("float" in tensors[index].dtype for index in (*read, *written))
    for index in file.outputs:
        tensors.setdefault(index, _tensor(file, index, "constant"))
    return FileSummary(
        bytes=len(content),
        subgraphs=len(file.model.subgraphs),
        inputs=tuple(tensors[index] for index in file.inputs),
        outputs=tuple(tensors[index] for index in file.outputs),
        operators=dict(Counter(names).most_common()),
        integer_operators=integer_operators,
        macs=macs(file),
        arena=arena_bytes(file),
        tensors=tuple(tensors.values()),
        metadata=_metadata(content),
    )


def _metadata(content: bytes) -> str:
    try:
        return str(find_metadata(content))
    except Exception as error:  # what a file says of itself may be wrong, and it can be run all the same
        return f"cannot be read: {one_line(error)}"


def _tensor(file: File, index: int, writer: str, *, shared: bool = False) -> TensorSummary:
    tensor = file.tensors[index]
    data = file.model.buffers[tensor.buffer].data
    quantization = tensor.quantization
    scales, zero_points = (
        [] if quantization is None or values is None else values
        for values in (getattr(quantization, "scale", None), getattr(quantization, "zeroPoint", None))
    )
    return TensorSummary(
        name=file.name(index),
        writer=writer,
        dtype=_TYPE_NAMES.get(tensor.type, f"type {tensor.type}"),
        shape=file.shape(index),
        bytes=0 if data is None or shared else len(data),
        scales=np.asarray(scales, np.float32),
        zero_points=np.asarray(zero_points, np.int64),
    )


def _edge(tensor: TensorSummary) -> str:
    text = f"{tensor.dtype}  {list(tensor.shape)}"
    if tensor.value_range is None:
        return text
    low, high = tensor.value_range
    return f"{text}  scale {tensor.scales[0]:.6g}, zero point {tensor.zero_points[0]}: values [{low:.6g}, {high:.6g}]"


def _cells(tensor: TensorSummary) -> tuple[str, ...]:
    """Texts of a tensor's line in the table."""
    scales, value_range = tensor.scales, tensor.value_range
    scale = "" if not len(scales) else f"{scales[0]:.5g}"
    if len(scales) > 1:
        scale = f"{scales.min():.3g}..{scales.max():.3g} x{len(scales)}"
    zero_points = np.unique(tensor.zero_points)
    zero_point = "various" if len(zero_points) > 1 else "".join(map(str, zero_points))
    span = "" if value_range is None else f"[{value_range[0]:.4g}, {value_range[1]:.4g}]"
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    size = f"{tensor.bytes:,}" if tensor.bytes else ""
    return tensor.writer, tensor.dtype, shape, size, scale, zero_point, span, tensor.name


def _table(tensors: Iterable[TensorSummary]) -> Iterator[str]:
    header = ("written by", "type", "shape", "bytes", "scale", "zero point", "values", "name")
    rows = [header, *map(_cells, tensors)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()
