"""Decides on the float file what the integer file will hold, before anything is written.

Each activation gets one grid (`grids.py`), each kernel the integers that were chosen, each bias the scale
S_input * S_kernel (`constants.py`). Operators without an integer kernel, and those that a rule keeps in float, compute in
float; the reason is recorded.

All operators read a tensor on the same grid, with one exception. An operator that reads or writes a 16-bit tensor computes
with 16 bits. The 8-bit tensors that it reads get a finer grid of scale S / 128, which holds each of their values exactly. An
8-bit tensor that it writes is rounded after it.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfdatafree.errors import ExportError
from tfdatafree.export.constants import Constant, fit_bias
from tfdatafree.export.division import kept_for_division
from tfdatafree.export.grids import choose_grids
from tfdatafree.export.inverse_roots import within_reach
from tfdatafree.numerics.affine import Quantizer, activation_quantizer, weight_quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.tflite.flatbuffer import FLOAT32, File
from tfdatafree.tflite.kernel_limits import UNUSABLE, refusal
from tfdatafree.tflite.metadata import About
from tfdatafree.tflite.operators import OPERATORS, Operator


@dataclass(frozen=True)
class Spec:
    """How to quantize a float file.

    Attributes:
        ranges: Float-file tensor index -> range of its values.
        kernels: Float-file tensor index of a weight tensor -> its integers; others are rounded to nearest.
        names: Float-file tensor index -> name in the integer file.
        activation_bits: 8 or 16.
        tensor_bits: Float-file tensor index -> bits, for tensors with other bits.
        float_rules: Float-file tensor index -> why a rule keeps the operator that writes it in float.
        kernel_bits, per_channel, dense_per_channel: For weight tensors that `kernels` does not list.
        int4: Store two 4-bit weights per byte if the operator can read them.
        input_grid: Operators whose output gets the grid of their input, although TFLite allows another.
        edge_dtype: Type of the file's inputs and outputs: that of the activations, "float32", or "uint8" with int8.
        input_names, output_names: Names in the file's signature.
        about: What the file says of its making; None: nothing.
    """

    ranges: Mapping[int, Range]
    kernels: Mapping[int, Constant] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    activation_bits: int = 8
    tensor_bits: Mapping[int, int] = field(default_factory=dict)
    float_rules: Mapping[int, str] = field(default_factory=dict)
    kernel_bits: int = 8
    per_channel: bool = True
    int4: bool = False
    dense_per_channel: bool = True
    input_grid: tuple[str, ...] = ()
    edge_dtype: str = "int8"
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    about: About | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The decisions about one file. Tensors are given by their indices in the float file.

    Attributes:
        spec: How to quantize the file.
        rows: Each operator's row in the table of operators; None if it stays in float.
        widths: Bits of the activations that each operator computes with; 0 if it stays in float.
        float_tensors: Tensors of float values.
        grids: Tensor -> its grid.
        plain_grids: Tensor -> its grid without `Spec.tensor_bits`. The file's inputs and outputs have these.
        read_as_integers: Tensors that operators or the file's outputs need as integers.
        kernels: Weight tensor -> the integers to write.
        packed: Weight tensors that are stored with two weights per byte.
        float_reasons: Operator and output name -> why it computes in float.
        adjusted: Layer -> why its scale was changed, or why its 4-bit weights take a byte each.
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
    float_reasons: Mapping[str, str]
    adjusted: Mapping[str, str]

    def grid_at(self, index: int, bits: int) -> Quantizer:
        """The grid with `bits` bits on which an operator reads the tensor."""
        own = self.grids[index]
        if own.bits == bits:
            return own
        return widen_grid(own) if own.bits < bits else self.plain_grids[index]


def plan_file(file: File, spec: Spec) -> Plan:
    """Plans the integer file of a float file, which is not changed.

    Raises:
        ExportError: A tensor that must be quantized has no range, or a rule requires a kernel that TFLite does not have.
    """
    return _Planner(file, spec).plan()


def tensors_without_grid(file: File, spec: Spec) -> list[int]:
    """Tensors that integer operators write or read, and whose grid `spec` does not tell.

    Not among them: tensors with a range of their own, those on the grid of a tensor that has one, and those whose operator
    has a built-in grid.
    """
    planner = _Planner(file, spec)
    computed = {index for operator in file.operators for index in operator.outputs}
    touched = planner.find_integer_reads() | {
        index
        for operator, row in zip(file.operators, planner.rows, strict=True)
        if row is not None
        for index in operator.outputs
    }
    return sorted((touched & computed & planner.float_tensors) - planner.grids.keys())


def widen_grid(grid: Quantizer) -> Quantizer:
    """A 16-bit grid that holds every value of an 8-bit one, because 128 * (q - Z) lies within +-32640."""
    return Quantizer(float(grid.scale) / 128, 0, 16)


def float_operands(file: File, float_tensors: frozenset[int], operator: Any, row: Operator) -> list[int]:
    """Positions of the operator's float inputs, without kernel and bias."""
    positions = range(len(operator.inputs)) if row.operands is None else row.operands
    return [p for p in positions if p < len(operator.inputs) and operator.inputs[p] in float_tensors]


def operand_grid(values: np.ndarray, bits: int) -> Quantizer:
    """The grid of a constant operand that has no grid in common with other tensors."""
    return activation_quantizer(values.min(), values.max(), bits, symmetric=bits == 16)


def tensor_name(file: File, spec: Spec, index: int) -> str:
    """The tensor's name in the integer file."""
    return spec.names.get(index) or file.name(index)


class _Planner:
    def __init__(self, file: File, spec: Spec):
        self.file, self.spec, self.bits = file, spec, spec.activation_bits
        self.float_reasons: dict[str, str] = {}
        self.adjusted: dict[str, str] = {}
        self.float_tensors = frozenset(i for i, tensor in enumerate(file.tensors) if tensor.type == FLOAT32)
        self.float_rules = {**kept_for_division(file), **spec.float_rules}
        self.rows = [self.row(operator) for operator in file.operators]
        self.grids = self.choose_grids(spec.tensor_bits)
        while self.leave_refused():
            self.grids = self.choose_grids(spec.tensor_bits)
        self.plain_grids = self.choose_grids({}) if spec.tensor_bits else self.grids
        self.widths: list[int] = []

    def plan(self) -> Plan:
        for index, bits in self.spec.tensor_bits.items():
            if index in self.spec.names and index in self.grids and self.grids[index].bits < bits:
                raise ExportError(
                    f"a rule gives '{self.name(index)}' {bits} bits, but this layer only moves the values of a model input, "
                    f"which has {self.bits} bits; leave the layer out of the rule."
                )
        pairs = zip(self.file.operators, self.rows, strict=True)
        self.widths = [0 if row is None else self.operator_bits(operator, row) for operator, row in pairs]
        read = self.find_integer_reads()
        for index in (*read, *self.float_tensors.intersection(self.file.inputs)):
            self.grid(index)  # raises if there is none
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
            float_reasons=self.float_reasons,
            adjusted=self.adjusted,
        )

    def choose_grids(self, tensor_bits: Mapping[int, int]) -> dict[int, Quantizer]:
        def choose(ranges: Mapping[int, Range]) -> dict[int, Quantizer]:
            return choose_grids(
                self.file, self.rows, self.operands, set(self.float_tensors), ranges, self.bits, tensor_bits
            )

        ranges = self.spec.ranges
        grids = choose(ranges)
        reachable = within_reach(self.file, self.rows, ranges, grids)
        return grids if reachable == ranges else choose(reachable)

    def row(self, operator) -> Operator | None:
        """The operator's row, or None if it stays in float. The reason is recorded if it has float inputs or outputs."""
        name = self.file.operator_name(operator)
        tensors = [i for i in (*operator.inputs, *operator.outputs) if i >= 0]
        if not any(self.file.tensors[i].type == FLOAT32 for i in tensors):
            return None
        row = OPERATORS.get(name)
        written = [i for i in operator.outputs if i in self.spec.tensor_bits]
        bits = self.spec.tensor_bits[written[0]] if written else self.bits
        reason = next((self.float_rules[i] for i in operator.outputs if i in self.float_rules), None)
        if reason is not None:
            pass
        elif row is None:
            reason = UNUSABLE.get(name, f"TFLite has no integer kernel for {name}")
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
            self.float_reasons[f"{name} {self.name(operator.outputs[0])}"] = reason
            return None
        assert row is not None, "an operator without a row has a reason to stay in float"
        return dataclasses.replace(row, grid="input") if name in self.spec.input_grid else row

    def leave_refused(self) -> bool:
        """Leaves operators in float whose integer kernels do not take their tensors' grids; returns whether there are any."""
        found = False
        for at, (operator, row) in enumerate(zip(self.file.operators, self.rows, strict=True)):
            name = self.file.operator_name(operator)
            reason = None if row is None or row.kernel is not None else self.refusal(operator, name, row)
            if reason is not None:
                self.float_reasons[f"{name} {self.name(operator.outputs[0])}"] = reason
                self.rows[at], found = None, True
        return found

    def refusal(self, operator, name: str, row: Operator) -> str | None:
        """Why the kernel does not take the grids of the operator's tensors; None: it does, or they are not known yet."""
        output = self.grids.get(operator.outputs[0])
        bits = self.bits if output is None else output.bits
        read = []
        for position in self.operands(operator, row):
            index = operator.inputs[position]
            constant = self.file.constant(index)
            if constant is None and index not in self.grids:
                return None
            read.append(self.grids[index] if constant is None else operand_grid(constant, bits))
        return refusal(name, read, output)

    def name(self, index: int) -> str:
        return tensor_name(self.file, self.spec, index)

    def operands(self, operator, row: Operator) -> list[int]:
        return float_operands(self.file, self.float_tensors, operator, row)

    def is_constant(self, index: int) -> bool:
        return self.file.constant(index) is not None

    def grid(self, index: int) -> Quantizer:
        if index not in self.grids:
            raise ExportError(f"tensor '{self.name(index)}' must be quantized, but no range was found for it.")
        return self.grids[index]

    def operator_bits(self, operator, row: Operator) -> int:
        """Bits of the activations that the operator computes with.

        Raises:
            ExportError: It reads or writes a 16-bit tensor and has no 16-bit kernel.
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
        """Tensors that operators or the file's outputs need as integers."""
        read = set() if self.spec.edge_dtype == "float32" else set(self.file.outputs)
        for operator, row in zip(self.file.operators, self.rows, strict=True):
            if row is not None:
                read.update(operator.inputs[p] for p in self.operands(operator, row))
        return {index for index in read if index in self.float_tensors and not self.is_constant(index)}

    def weighted(self) -> Iterator[tuple[Any, Operator]]:
        """Operators that multiply by integer weights, in order, each with its row."""
        for operator, row in zip(self.file.operators, self.rows, strict=True):
            if row is not None and row.kernel is not None:
                yield operator, row

    def choose_kernels(self) -> dict[int, Constant]:
        """The integers of each weight tensor, with scales so large that the biases fit."""
        kernels: dict[int, Constant] = {}
        scales, biases = self.smallest_input_scales(), self.largest_biases()
        for operator, row in self.weighted():
            index = int(operator.inputs[row.kernel])
            layer = self.name(operator.outputs[0])
            kernel = self.spec.kernels.get(index)
            if kernel is None:
                dense = self.file.operator_name(operator) == "FULLY_CONNECTED"
                per_channel = self.spec.dense_per_channel if dense else self.spec.per_channel
                kernel = self.nearest_kernel(index, row.kernel_axis if per_channel else None)
            if index in biases:
                kernel, raised = fit_bias(kernel, biases[index], scales[index])
                if raised:
                    self.adjusted[layer] = f"{raised} weight scale(s) raised: the bias would overflow 32 bits"
            if index in kernels and not kernels[index].quantizer == kernel.quantizer:
                raise ExportError(
                    f"the kernel of '{layer}' is shared by calls whose biases need different scales; keep this layer in "
                    "float, or use a separate layer for each call."
                )
            kernels.setdefault(index, kernel)
        return kernels

    def find_packed(self, kernels: Mapping[int, Constant]) -> frozenset[int]:
        """4-bit weight tensors that all their readers can unpack; none if the spec does not pack weights."""
        pairs = zip(self.file.operators, self.rows, self.widths, strict=True)
        unable = {
            int(operator.inputs[row.kernel]): self.file.operator_name(operator)
            for operator, row, bits in pairs
            if row is not None and row.kernel is not None and bits not in row.int4
        }
        packed = {index for index, kernel in kernels.items() if self.spec.int4 and kernel.quantizer.bits == 4}
        visited = set()
        for operator, row in self.weighted():
            index = int(operator.inputs[row.kernel])
            if index in packed & unable.keys() and index not in visited:
                layer = self.name(operator.outputs[0])
                self.adjusted[layer] = f"4-bit weights take a byte each: {unable[index]} does not read packed ones here"
            visited.add(index)
        return frozenset(packed - unable.keys())

    def smallest_input_scales(self) -> dict[int, float]:
        """Weight tensor -> smallest scale of the inputs that it multiplies; several, if the layer is called several times."""
        scales: dict[int, float] = {}
        for operator, row, bits in zip(self.file.operators, self.rows, self.widths, strict=True):
            if row is not None and row.kernel is not None:
                source = self.grid_at(operator.inputs[row.source], bits)
                kernel, scale = int(operator.inputs[row.kernel]), float(source.scale)
                scales[kernel] = min(scale, scales.get(kernel, scale))
        return scales

    def largest_biases(self) -> dict[int, np.ndarray]:
        """Weight tensor -> largest bias of each output, over all calls of a shared layer."""
        biases: dict[int, np.ndarray] = {}
        for operator, row in self.weighted():
            bias, kernel = self.file.bias(operator, row.bias), int(operator.inputs[row.kernel])
            if bias is not None:
                biases[kernel] = np.maximum(np.abs(bias), biases.get(kernel, 0.0))
        return biases

    def grid_at(self, index: int, bits: int) -> Quantizer:
        own = self.grid(index)
        if own.bits == bits:
            return own
        return widen_grid(own) if own.bits < bits else self.plain_grids[index]

    def nearest_kernel(self, index: int, axis: int | None) -> Constant:
        value = self.file.known_constant(index)
        quantizer = weight_quantizer(value, self.spec.kernel_bits, axis)
        return Constant(quantizer.quantize(value), quantizer)
