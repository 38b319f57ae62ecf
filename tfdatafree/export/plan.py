"""What an integer file will hold, decided on the float file before anything is written.

Activations get one grid per tensor (`grids.py`); kernels the integers that were chosen; biases the step S_input * S_kernel
(`constants.py`). Operators without an integer kernel, and those that are to stay in float, compute in float, and say why.

A tensor has one grid for all that follows. An operator that reads or writes a tensor of 16 bits computes in 16: tensors of 8
bits that it reads come on a grid that holds each of their values exactly, S / 128; one of 8 bits that it writes is rounded
behind it.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfdatafree.errors import ExportError
from tfdatafree.export.constants import Constant, fit_bias
from tfdatafree.export.grids import choose_grids
from tfdatafree.numerics.affine import Quantizer, weight_quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.tflite.flatbuffer import DESCRIPTION, FLOAT32, File
from tfdatafree.tflite.operators import OPERATORS, Operator


@dataclass(frozen=True)
class Spec:
    """How the file is to be quantized.

    Attributes:
        ranges: Float-file tensor index -> range of its values.
        kernels: Float-file tensor index of a weight tensor -> its integers; others are rounded to nearest.
        names: Float-file tensor index -> name in the integer file.
        activation_bits: 8 or 16.
        tensor_bits: Float-file tensor index -> bits, where they are others.
        floats: Float-file tensor index -> why the operator that writes it computes in float.
        kernel_bits, per_channel, dense_per_channel: For weight tensors that `kernels` does not list.
        int4: Store kernels of 4 bits two to a byte, where the operator reads that.
        input_grid: Operators whose output gets the grid of its input, although it might have another.
        edge_dtype: Type of the file's inputs and outputs: the activations' own, "float32", or "uint8" beside int8.
        input_names, output_names: Names in the file's signature.
    """

    ranges: Mapping[int, Range]
    kernels: Mapping[int, Constant] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    activation_bits: int = 8
    tensor_bits: Mapping[int, int] = field(default_factory=dict)
    floats: Mapping[int, str] = field(default_factory=dict)
    kernel_bits: int = 8
    per_channel: bool = True
    int4: bool = False
    dense_per_channel: bool = True
    input_grid: tuple[str, ...] = ()
    edge_dtype: str = "int8"
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    description: str = DESCRIPTION


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The decisions about one file, all by its tensors' indices.

    Attributes:
        spec: What was asked for.
        rows: Of each operator, its row in the table of operators; None for one that stays in float.
        widths: Of each operator, the bits of the activations that it computes with; 0 for one that stays in float.
        float_tensors: Tensors of reals.
        grids: Tensor -> its grid.
        plain_grids: Tensor -> the grid that it would have by itself: the edges of the file are on these.
        read_as_integers: Tensors of which operators, or the file's outputs, read integers.
        kernels: Weight tensor -> the integers that will be written.
        packed: Weight tensors that are stored two to a byte.
        kept_float: Operator and output name -> why it computes in float.
        adjusted: Layer -> why its step was changed, or why it takes a byte per weight.
    """

    spec: Spec
    rows: tuple[Operator | None, ...]
    widths: tuple[int, ...]
    float_tensors: frozenset[int]
    grids: Mapping[int, Quantizer]
    plain_grids: Mapping[int, Quantizer]
    read_as_integers: frozenset[int]
    kernels: Mapping[int, Constant]
    packed: frozenset[int]
    kept_float: Mapping[str, str]
    adjusted: Mapping[str, str]

    def grid_at(self, index: int, bits: int) -> Quantizer:
        """The tensor's own grid, or one of so many bits that stands for it."""
        own = self.grids[index]
        if own.bits == bits:
            return own
        return holding(own) if own.bits < bits else self.plain_grids[index]


def plan_file(file: File, spec: Spec) -> Plan:
    """The plan for a float file, which stays as it is.

    Raises:
        ExportError: A tensor that must be quantized has no range, or a rule asks for what TFLite does not have.
    """
    return _Planner(file, spec).plan()


def holding(grid: Quantizer) -> Quantizer:
    """A 16-bit grid that holds every value of an 8-bit one: 128 * (q - Z) lies within +-32640."""
    return Quantizer(float(grid.scale) / 128, 0, 16)


def real_operands(file: File, float_tensors: frozenset[int], operator: Any, row: Operator) -> list[int]:
    """Positions of the operator's real-valued inputs, kernel and bias left out."""
    positions = range(len(operator.inputs)) if row.operands is None else row.operands
    return [p for p in positions if p < len(operator.inputs) and operator.inputs[p] in float_tensors]


def tensor_name(file: File, spec: Spec, index: int) -> str:
    """The tensor's name in the integer file."""
    return spec.names.get(index) or file.name(index)


class _Planner:
    def __init__(self, file: File, spec: Spec):
        self.file, self.spec, self.bits = file, spec, spec.activation_bits
        self.kept_float: dict[str, str] = {}
        self.adjusted: dict[str, str] = {}
        self.float_tensors = frozenset(i for i, tensor in enumerate(file.tensors) if tensor.type == FLOAT32)
        self.rows = [self.row(operator) for operator in file.operators]
        self.grids = self.choose_grids(spec.tensor_bits)
        self.plain_grids = self.choose_grids({}) if spec.tensor_bits else self.grids
        self.widths: list[int] = []

    def plan(self) -> Plan:
        for index, bits in self.spec.tensor_bits.items():
            if index in self.spec.names and index in self.grids and self.grids[index].bits < bits:
                raise ExportError(
                    f"a rule gives '{self.name(index)}' {bits} bits, but this layer only moves the values of a model input, "
                    f"which has {self.bits}; leave it out of the rule."
                )
        pairs = zip(self.file.operators, self.rows, strict=True)
        self.widths = [0 if row is None else self.operator_bits(operator, row) for operator, row in pairs]
        read = self.find_integer_reads()
        for index in (*read, *self.float_tensors.intersection(self.file.inputs)):
            self.grid(index)  # raises where there is none
        kernels = self.choose_kernels()
        return Plan(
            spec=self.spec,
            rows=tuple(self.rows),
            widths=tuple(self.widths),
            float_tensors=self.float_tensors,
            grids=self.grids,
            plain_grids=self.plain_grids,
            read_as_integers=frozenset(read),
            kernels=kernels,
            packed=self.find_packed(kernels),
            kept_float=self.kept_float,
            adjusted=self.adjusted,
        )

    def choose_grids(self, tensor_bits: Mapping[int, int]) -> dict[int, Quantizer]:
        return choose_grids(
            self.file, self.rows, self.operands, set(self.float_tensors), self.spec.ranges, self.bits, tensor_bits
        )

    def row(self, operator) -> Operator | None:
        """The operator's row, or None if it stays in float; the reason is noted if it works on reals at all."""
        name = self.file.operator_name(operator)
        tensors = [i for i in (*operator.inputs, *operator.outputs) if i >= 0]
        if not any(self.file.tensors[i].type == FLOAT32 for i in tensors):
            return None
        row = OPERATORS.get(name)
        written = [i for i in operator.outputs if i in self.spec.tensor_bits]
        bits = self.spec.tensor_bits[written[0]] if written else self.bits
        reason = next((self.spec.floats[i] for i in operator.outputs if i in self.spec.floats), None)
        if reason is not None:
            pass
        elif row is None:
            reason = f"TFLite has no integer kernel for {name}"
        elif bits not in row.versions:
            reason = f"TFLite's {name} has no {bits}-bit kernel"
            if written:
                raise ExportError(
                    f"a rule gives '{self.name(operator.outputs[0])}' {bits} bits, but {reason}; leave this layer out of "
                    "the rule, or give it a rule with keep_float=True."
                )
        elif row.kernel is not None and self.file.constant(operator.inputs[row.kernel]) is None:
            reason = f"the weights of this {name} are computed, not constant"
        if reason:
            self.kept_float[f"{name} {self.name(operator.outputs[0])}"] = reason
            return None
        return dataclasses.replace(row, grid="input") if name in self.spec.input_grid else row

    def name(self, index: int) -> str:
        return tensor_name(self.file, self.spec, index)

    def operands(self, operator, row: Operator) -> list[int]:
        return real_operands(self.file, self.float_tensors, operator, row)

    def is_constant(self, index: int) -> bool:
        return self.file.constant(index) is not None

    def grid(self, index: int) -> Quantizer:
        if index not in self.grids:
            raise ExportError(f"tensor '{self.name(index)}' must be quantized, but no range was found for it.")
        return self.grids[index]

    def operator_bits(self, operator, row: Operator) -> int:
        """Bits of the activations that the operator computes with.

        Raises:
            ExportError: It would read a tensor of 16 bits, and has no such kernel.
        """
        outputs = [index for index in operator.outputs if index in self.float_tensors]
        if row.grid != "own" and outputs:
            return self.grid(outputs[0]).bits
        read = [operator.inputs[p] for p in self.operands(operator, row)]
        touched = [index for index in (*read, *outputs) if not self.is_constant(index)]
        bits = max((self.grid(index).bits for index in touched), default=self.bits)
        if bits not in row.versions:
            wide = next(index for index in touched if self.grid(index).bits == bits)
            name = self.file.operator_name(operator)
            raise ExportError(
                f"a rule gives '{self.name(wide)}' {bits} bits, but TFLite's {name}, which reads it and writes "
                f"'{self.name(operator.outputs[0])}', has no {bits}-bit kernel; leave '{self.name(wide)}' out of the rule, "
                f"or give '{self.name(operator.outputs[0])}' a rule with keep_float=True."
            )
        return bits

    def find_integer_reads(self) -> set[int]:
        """Tensors of which somebody reads integers: operators, or the file's outputs."""
        found = set() if self.spec.edge_dtype == "float32" else set(self.file.outputs)
        for operator, row in zip(self.file.operators, self.rows, strict=True):
            if row is not None:
                found.update(operator.inputs[p] for p in self.operands(operator, row))
        return {index for index in found if index in self.float_tensors and not self.is_constant(index)}

    def weighted(self) -> Iterator[tuple[Any, Operator]]:
        """Operators that multiply by integer weights, in order, with their rows."""
        for operator, row in zip(self.file.operators, self.rows, strict=True):
            if row is not None and row.kernel is not None:
                yield operator, row

    def choose_kernels(self) -> dict[int, Constant]:
        """The integers of each weight tensor, with steps so large that the biases fit."""
        found: dict[int, Constant] = {}
        scales = self.smallest_input_scales()
        for operator, row in self.weighted():
            index = int(operator.inputs[row.kernel])
            layer = self.name(operator.outputs[0])
            kernel = self.spec.kernels.get(index)
            if kernel is None:
                dense = self.file.operator_name(operator) == "FULLY_CONNECTED"
                per_channel = self.spec.dense_per_channel if dense else self.spec.per_channel
                kernel = self.nearest_kernel(index, row.kernel_axis if per_channel else None)
            bias = self.file.bias(operator, row.bias)
            if bias is not None:
                kernel, raised = fit_bias(kernel, bias, scales[index])
                if raised:
                    self.adjusted[layer] = f"{raised} weight step(s) raised: the bias would overflow 32 bits"
            if index in found and not found[index].quantizer == kernel.quantizer:
                raise ExportError(
                    f"the kernel of '{layer}' is shared by calls whose biases need different steps; "
                    "keep this layer in float or give its calls layers of their own."
                )
            found.setdefault(index, kernel)
        return found

    def find_packed(self, kernels: Mapping[int, Constant]) -> frozenset[int]:
        """4-bit weight tensors that every operator that reads them can unpack, if packed ones are asked for."""
        pairs = zip(self.file.operators, self.rows, self.widths, strict=True)
        unable = {
            int(operator.inputs[row.kernel]): self.file.operator_name(operator)
            for operator, row, bits in pairs
            if row is not None and row.kernel is not None and bits not in row.int4
        }
        packed = {index for index, kernel in kernels.items() if self.spec.int4 and kernel.quantizer.bits == 4}
        seen = set()
        for operator, row in self.weighted():
            index = int(operator.inputs[row.kernel])
            if index in packed & unable.keys() and index not in seen:
                layer = self.name(operator.outputs[0])
                self.adjusted[layer] = f"4-bit weights take a byte each: {unable[index]} does not read packed ones here"
            seen.add(index)
        return frozenset(packed - unable.keys())

    def smallest_input_scales(self) -> dict[int, float]:
        """Weight tensor -> smallest step of an input that it multiplies: calls of one layer share its kernel."""
        found: dict[int, float] = {}
        for operator, row, bits in zip(self.file.operators, self.rows, self.widths, strict=True):
            if row is not None and row.kernel is not None:
                source = self.grid_at(operator.inputs[row.operands[0]], bits)
                kernel, scale = int(operator.inputs[row.kernel]), float(source.scale)
                found[kernel] = min(scale, found.get(kernel, scale))
        return found

    def grid_at(self, index: int, bits: int) -> Quantizer:
        own = self.grid(index)
        if own.bits == bits:
            return own
        return holding(own) if own.bits < bits else self.plain_grids[index]

    def nearest_kernel(self, index: int, axis: int | None) -> Constant:
        value = self.file.constant(index)
        quantizer = weight_quantizer(value, self.spec.kernel_bits, axis)
        return Constant(quantizer.quantize(value), quantizer)
