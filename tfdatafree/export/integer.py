"""Turns a float TFLite file into an integer one, with the ranges and the integers that it is given.

Activations get one grid per tensor (`grids.py`); kernels the integers that were chosen; biases the step S_input * S_kernel
(`kernels.py`). Where a kernel wants a grid that its input does not have, a QUANTIZE operator goes between. Operators
without an integer kernel, and those that are to stay in float, compute between DEQUANTIZE and QUANTIZE, and say so.

A tensor has one grid for all that follows. An operator that reads or writes a tensor of 16 bits computes in 16: tensors of 8
bits that it reads come on a grid that holds each of their values exactly, S / 128; one of 8 bits that it writes is rounded
behind it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tfdatafree.errors import ExportError
from tfdatafree.export.grids import choose_grids
from tfdatafree.export.kernels import Kernel, fit_bias, integer_bias
from tfdatafree.numerics.affine import Quantizer, activation_quantizer, weight_quantizer
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
    kernels: Mapping[int, Kernel] = field(default_factory=dict)
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


@dataclass(frozen=True)
class IntegerModel:
    """An integer file and what was decided in it.

    Attributes:
        content: The file.
        grids: Float-file tensor index -> the grid that its integers were given.
        index_of: Float-file tensor index -> index in `content`, for activations that are integers there.
        kernel_of: Float-file index of a weight tensor -> the integers written, after any adjustment.
        index_of_kernel: Float-file index of a weight tensor -> its index in `content`.
        constants: Index in `content` -> integers and grid of a bias or of another constant operand.
        kept_float: Operator and output name -> why it computes in float.
        adjusted: Weight tensor name -> why its step was changed, or why it takes a byte per weight.
        requantized: Number of QUANTIZE operators between integers that were added.
    """

    content: bytes
    grids: dict[int, Quantizer]
    index_of: dict[int, int]
    kernel_of: dict[int, Kernel]
    index_of_kernel: dict[int, int]
    constants: dict[int, Kernel]
    kept_float: dict[str, str]
    adjusted: dict[str, str]
    requantized: int


def quantize_file(float_content: bytes, spec: Spec) -> IntegerModel:
    """Integer version of a float file.

    Raises:
        ExportError: A tensor that must be quantized has no range.
    """
    return _Writer(File.parse(float_content), spec).write()


def tensors_without_grid(file: File, spec: Spec) -> list[int]:
    """Tensors that integer operators write or read, and whose grid `spec` does not tell: neither by their own range, nor by
    that of a tensor on the same grid, nor by their operator."""
    writer = _Writer(file, spec)
    written = {index for operator in file.operators for index in operator.outputs}
    needed = writer.find_integer_reads() | {
        index
        for operator, rule in zip(file.operators, writer.rules, strict=True)
        if rule is not None
        for index in operator.outputs
    }
    return sorted((needed & written & writer.float_tensors) - writer.grids.keys())


def holding(grid: Quantizer) -> Quantizer:
    """A 16-bit grid that holds every value of an 8-bit one: 128 * (q - Z) lies within +-32640."""
    return Quantizer(float(grid.scale) / 128, 0, 16)


def integer_dtype(bits: int) -> str:
    return "int8" if bits <= 8 else "int16"


class _Writer:
    def __init__(self, file: File, spec: Spec):
        self.file, self.spec, self.bits = file, spec, spec.activation_bits
        self.kept_float: dict[str, str] = {}
        self.adjusted: dict[str, str] = {}
        self.kernel_of: dict[int, Kernel] = {}
        self.kernel_index: dict[int, int] = {}
        self.constants: dict[int, Kernel] = {}
        self.requantized = 0
        self.rules = [self.rule(operator) for operator in file.operators]
        self.float_tensors = {i for i, tensor in enumerate(file.tensors) if tensor.type == FLOAT32}
        given = file, self.rules, self.operands, self.float_tensors, spec.ranges, self.bits
        self.grids = choose_grids(*given, spec.tensor_bits)
        # What a tensor would have by itself: the edges of the file are on these.
        self.plain_grids = choose_grids(*given) if spec.tensor_bits else self.grids
        self.forms: dict[tuple[int, str], int] = {}
        # Grid of the integers that an operator wrote; where it is not the tensor's own, a QUANTIZE follows.
        self.written: dict[int, Quantizer] = {}

    def write(self) -> IntegerModel:
        for index, bits in self.spec.tensor_bits.items():
            if index in self.spec.names and index in self.grids and self.grids[index].bits < bits:
                raise ExportError(
                    f"a rule gives '{self.name(index)}' {bits} bits, but this layer only moves the values of a model input, "
                    f"which has {self.bits}; leave it out of the rule."
                )
        self.widths = [
            0 if rule is None else self.operator_bits(operator, rule)
            for operator, rule in zip(self.file.operators, self.rules, strict=True)
        ]
        self.read_as_integers = self.find_integer_reads()
        self.input_scales = self.smallest_input_scales()
        self.read_as_bytes = self.find_reads_as_bytes()
        originals = list(self.file.operators)
        self.file.graph.operators = []
        self.home: dict[int, str] = dict.fromkeys(self.file.inputs, "integer")
        for index in self.file.inputs:
            if index in self.float_tensors:
                self.add_input_edge(index)
        for operator, rule, bits in zip(originals, self.rules, self.widths, strict=True):
            if rule is None:
                self.keep_float(operator)
            else:
                self.make_integer(operator, rule, bits)
            self.file.graph.operators.append(operator)
        outputs = [self.output_edge(index) for index in self.file.outputs]
        inputs = [self.forms.get((index, "edge"), index) for index in self.file.inputs]
        self.file.graph.inputs, self.file.graph.outputs = inputs, outputs
        moved = self.compact()
        self.file.sign(self.spec.input_names, self.spec.output_names, self.spec.description)
        index_of = {}
        for old, grid in self.grids.items():
            # What a float operator wrote and an integer one reads is, for all that follows, its integer form.
            held = old if self.written.get(old) == grid else self.forms.get(_form_key(old, grid))
            if held in moved:
                index_of[old] = moved[held]
        kernels = {old: moved[new] for old, new in self.kernel_index.items()}
        return IntegerModel(
            self.file.serialize(),
            {old: self.grids[old] for old in index_of},
            index_of,
            self.kernel_of,
            kernels,
            {moved[new]: constant for new, constant in self.constants.items()},
            self.kept_float,
            self.adjusted,
            self.requantized,
        )

    # Which operators --------------------------------------------------------------------------------------------------

    def rule(self, operator) -> Operator | None:
        """The operator's row, or None if it stays in float; the reason is noted if it works on reals at all."""
        name = self.file.operator_name(operator)
        tensors = [i for i in (*operator.inputs, *operator.outputs) if i >= 0]
        if not any(self.file.tensors[i].type == FLOAT32 for i in tensors):
            return None
        rule = OPERATORS.get(name)
        written = [i for i in operator.outputs if i in self.spec.tensor_bits]
        bits = self.spec.tensor_bits[written[0]] if written else self.bits
        reason = next((self.spec.floats[i] for i in operator.outputs if i in self.spec.floats), None)
        if reason is not None:
            pass
        elif rule is None:
            reason = f"TFLite has no integer kernel for {name}"
        elif bits not in rule.versions:
            reason = f"TFLite's {name} has no {bits}-bit kernel"
            if written:
                raise ExportError(
                    f"a rule gives '{self.name(operator.outputs[0])}' {bits} bits, but {reason}; leave this layer out of "
                    "the rule, or give it a rule with keep_float=True."
                )
        elif rule.kernel is not None and self.file.constant(operator.inputs[rule.kernel]) is None:
            reason = f"the weights of this {name} are computed, not constant"
        if reason:
            self.kept_float[f"{name} {self.name(operator.outputs[0])}"] = reason
            return None
        return dataclasses.replace(rule, grid="input") if name in self.spec.input_grid else rule

    def name(self, index: int) -> str:
        return self.spec.names.get(index) or self.file.name(index)

    def operands(self, operator, rule: Operator) -> list[int]:
        """Positions of the operator's real-valued inputs, kernel and bias left out."""
        positions = range(len(operator.inputs)) if rule.operands is None else rule.operands
        return [p for p in positions if p < len(operator.inputs) and operator.inputs[p] in self.float_tensors]

    def is_constant(self, index: int) -> bool:
        return self.file.constant(index) is not None

    def grid(self, index: int) -> Quantizer:
        if index not in self.grids:
            raise ExportError(f"tensor '{self.name(index)}' must be quantized, but no range was found for it.")
        return self.grids[index]

    def operator_bits(self, operator, rule: Operator) -> int:
        """Bits of the activations that the operator computes with.

        Raises:
            ExportError: It would read a tensor of 16 bits, and has no such kernel.
        """
        outputs = [index for index in operator.outputs if index in self.float_tensors]
        if rule.grid != "own" and outputs:
            return self.grid(outputs[0]).bits
        read = [operator.inputs[p] for p in self.operands(operator, rule)]
        touched = [index for index in (*read, *outputs) if not self.is_constant(index)]
        bits = max((self.grid(index).bits for index in touched), default=self.bits)
        if bits not in rule.versions:
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
        for operator, rule in zip(self.file.operators, self.rules, strict=True):
            if rule is not None:
                found.update(operator.inputs[p] for p in self.operands(operator, rule))
        return {index for index in found if index in self.float_tensors and not self.is_constant(index)}

    def grid_at(self, index: int, bits: int) -> Quantizer:
        """The tensor's own grid, or one of so many bits that stands for it."""
        own = self.grid(index)
        if own.bits == bits:
            return own
        return holding(own) if own.bits < bits else self.plain_grids[index]

    # Rewriting --------------------------------------------------------------------------------------------------------

    def add_input_edge(self, index: int) -> None:
        grid = self.grid(index)
        self.file.set_quantized(index, grid, integer_dtype(grid.bits))
        self.written[index] = grid
        edge = self.edge_grid(grid)
        if edge is not None or self.spec.edge_dtype == "float32":
            outer = self.file.add_tensor(f"{self.name(index)}_{self.spec.edge_dtype}", index)
            if edge is None:
                self.file.tensors[outer].type, self.file.tensors[outer].quantization = FLOAT32, None
            else:
                self.file.set_quantized(outer, edge, self.spec.edge_dtype)
            self.append("QUANTIZE", outer, index, 2)
            self.forms[index, "edge"] = outer

    def edge_grid(self, grid: Quantizer) -> Quantizer | None:
        """The grid of a uint8 edge beside int8 activations; None for edges of the activations' own type, or float."""
        if self.spec.edge_dtype != "uint8":
            return None
        return Quantizer(grid.scale, grid.zero_point + 128, 8, signed=False)

    def output_edge(self, index: int) -> int:
        if index not in self.float_tensors:
            return index
        wants_float = self.spec.edge_dtype == "float32"
        if wants_float:
            return self.float_form(index)
        grid = self.grid_at(index, self.bits)
        inner = self.integer_form(index, grid)
        edge = self.edge_grid(grid)
        if edge is None:
            return inner
        outer = self.file.add_tensor(f"{self.name(index)}_{self.spec.edge_dtype}", inner)
        self.file.set_quantized(outer, edge, self.spec.edge_dtype)
        self.append("QUANTIZE", inner, outer, 2)
        return outer

    def append(self, name: str, source: int, target: int, version: int) -> None:
        self.file.graph.operators.append(self.file.new_operator(name, source, target, version))

    def keep_float(self, operator) -> None:
        operator.inputs = [
            self.float_form(i) if i in self.float_tensors and not self.is_constant(i) else i for i in operator.inputs
        ]
        self.home.update((index, "float") for index in operator.outputs)

    def float_form(self, index: int) -> int:
        """The tensor as float32: itself, or behind a DEQUANTIZE, which shows everybody the same values."""
        if self.home.get(index) != "integer" and (index not in self.read_as_integers or index not in self.grids):
            return index
        key = (index, "float")
        if key not in self.forms:
            source = self.integer_form(index, self.grid(index))
            self.forms[key] = self.file.add_tensor(f"{self.name(index)}_float", index)
            self.file.tensors[self.forms[key]].type = FLOAT32
            self.append("DEQUANTIZE", source, self.forms[key], 2)
        return self.forms[key]

    def integer_form(self, index: int, grid: Quantizer) -> int:
        """The tensor as integers on `grid`: itself, or behind a QUANTIZE."""
        if self.written.get(index) == grid:
            return index
        key = _form_key(index, grid)
        if key not in self.forms:
            own = self.grid(index)
            source = index if grid == own else self.integer_form(index, own)
            self.forms[key] = self.file.add_tensor(f"{self.name(index)}_requantized", index)
            self.file.set_quantized(self.forms[key], grid, integer_dtype(grid.bits))
            self.append("QUANTIZE", source, self.forms[key], 2)
            self.requantized += source != index or self.home.get(index) == "integer"
        return self.forms[key]

    def make_integer(self, operator, rule: Operator, bits: int) -> None:
        outputs = [index for index in operator.outputs if index in self.float_tensors]
        inputs = list(operator.inputs)
        for position in self.operands(operator, rule):
            index = inputs[position]
            if self.is_constant(index):
                shared = self.grid(outputs[0]) if rule.grid == "all" else None
                inputs[position] = self.constant_operand(index, shared, bits)
            else:
                shared = self.grid(outputs[0]) if rule.grid != "own" and outputs else self.grid_at(index, bits)
                inputs[position] = self.integer_form(index, shared)
        if rule.kernel is not None:
            source = self.grid_at(operator.inputs[rule.operands[0]], bits)
            inputs[rule.kernel], bias = self.kernel(operator, rule, source)
            if bias is not None:
                inputs[rule.bias] = bias
        operator.inputs = inputs
        for index in outputs:
            self.written[index] = self.written_grid(index, rule, bits)
            self.file.set_quantized(index, self.written[index], integer_dtype(bits))
            self.home[index] = "integer"
        name = self.file.operator_name(operator)
        version = max(self.file.model.operatorCodes[operator.opcodeIndex].version, rule.versions[bits])
        if rule.kernel is not None and self.file.dtype(inputs[rule.kernel]) == "int4":
            version = max(version, rule.int4[bits])
        operator.opcodeIndex = self.file.operator_code(name, version)
        if bits == 16 and hasattr(operator.builtinOptions, "potScaleInt16"):
            operator.builtinOptions.potScaleInt16 = False

    def written_grid(self, index: int, rule: Operator, bits: int) -> Quantizer:
        """Grid of what an operator computing with `bits` writes: the tensor's own, or a finer one of the same reals."""
        own = self.grid(index)
        if own.bits == bits:
            return own
        if rule.fixed:
            return Quantizer(rule.fixed[bits].scale, rule.fixed[bits].zero_point, bits)
        return activation_quantizer(float(own.low), float(own.high), bits, symmetric=True)

    def constant_operand(self, index: int, grid: Quantizer | None, bits: int) -> int:
        value = self.file.constant(index)
        if grid is None:
            grid = activation_quantizer(value.min(), value.max(), bits, symmetric=bits == 16)
        new = self.file.add_tensor(self.file.name(index), index)
        self.constants[new] = Kernel(grid.quantize(value), grid)
        self.file.set_constant(new, self.constants[new].values)
        self.file.set_quantized(new, grid, integer_dtype(grid.bits))
        return new

    def kernel(self, operator, rule: Operator, source: Quantizer) -> tuple[int, int | None]:
        """Indices of the integer kernel and bias of an operator that multiplies by weights."""
        index = operator.inputs[rule.kernel]
        bias_index = operator.inputs[rule.bias] if len(operator.inputs) > rule.bias else -1
        bias = self.file.constant(bias_index) if bias_index >= 0 else None
        layer = self.name(operator.outputs[0])
        kernel = self.spec.kernels.get(index)
        if kernel is None:
            dense = self.file.operator_name(operator) == "FULLY_CONNECTED"
            per_channel = self.spec.dense_per_channel if dense else self.spec.per_channel
            kernel = self.nearest_kernel(index, rule.kernel_axis if per_channel else None)
        if bias is not None:
            kernel, raised = fit_bias(kernel, bias, self.input_scales[index])
            if raised:
                self.adjusted[layer] = f"{raised} weight step(s) raised: the bias would overflow 32 bits"
        written = self.kernel_of.get(index)
        if written is not None and not written.quantizer == kernel.quantizer:
            raise ExportError(
                f"the kernel of '{layer}' is shared by calls whose biases need different steps; "
                "keep this layer in float or give its calls layers of their own."
            )
        if written is None:
            new = self.file.add_tensor(f"{layer}/kernel", index)
            wanted = self.spec.int4 and kernel.quantizer.bits == 4
            packed = wanted and index not in self.read_as_bytes
            if wanted and not packed:
                name = self.read_as_bytes[index]
                self.adjusted[layer] = f"4-bit weights take a byte each: {name} does not read packed ones here"
            self.file.set_constant(new, kernel.values.astype(np.int8), packed=packed)
            self.file.set_quantized(new, kernel.quantizer, "int4" if packed else "int8")
            self.kernel_of[index], self.kernel_index[index] = kernel, new
        if bias is None:
            return self.kernel_index[index], None
        new = self.file.add_tensor(f"{layer}/bias", bias_index)
        self.constants[new] = integer_bias(bias, kernel, float(source.scale), source.bits)
        self.file.set_constant(new, self.constants[new].values)
        self.file.set_quantized(new, self.constants[new].quantizer, "int32" if source.bits == 8 else "int64")
        return self.kernel_index[index], new

    def find_reads_as_bytes(self) -> dict[int, str]:
        """Weight tensor -> an operator that reads it and could not if its weights were packed."""
        return {
            int(operator.inputs[rule.kernel]): self.file.operator_name(operator)
            for operator, rule, bits in zip(self.file.operators, self.rules, self.widths, strict=True)
            if rule is not None and rule.kernel is not None and bits not in rule.int4
        }

    def smallest_input_scales(self) -> dict[int, float]:
        """Weight tensor -> smallest step of an input that it multiplies: calls of one layer share its kernel."""
        found: dict[int, float] = {}
        for operator, rule, bits in zip(self.file.operators, self.rules, self.widths, strict=True):
            if rule is not None and rule.kernel is not None:
                source = self.grid_at(operator.inputs[rule.operands[0]], bits)
                kernel, scale = operator.inputs[rule.kernel], float(source.scale)
                found[kernel] = min(scale, found.get(kernel, scale))
        return found

    def nearest_kernel(self, index: int, axis: int | None) -> Kernel:
        value = self.file.constant(index)
        quantizer = weight_quantizer(value, self.spec.kernel_bits, axis)
        return Kernel(quantizer.quantize(value), quantizer)

    # Finishing --------------------------------------------------------------------------------------------------------

    def compact(self) -> dict[int, int]:
        """Renames tensors, drops those that nothing refers to, and returns {old index: new index}."""
        graph = self.file.graph
        used = {*graph.inputs, *graph.outputs}
        for operator in graph.operators:
            used.update(i for i in (*operator.inputs, *operator.outputs) if i >= 0)
        for index, name in self.spec.names.items():
            self.file.tensors[index].name = name
        order = sorted(used)
        moved = {old: new for new, old in enumerate(order)}
        renumber: Callable[[int], int] = lambda i: moved[i] if i >= 0 else -1  # noqa: E731
        for operator in graph.operators:
            operator.inputs = [renumber(int(i)) for i in operator.inputs]
            operator.outputs = [renumber(int(i)) for i in operator.outputs]
        graph.inputs = [renumber(int(i)) for i in graph.inputs]
        graph.outputs = [renumber(int(i)) for i in graph.outputs]
        graph.tensors = [graph.tensors[old] for old in order]
        codes = sorted({operator.opcodeIndex for operator in graph.operators})
        self.file.model.operatorCodes = [self.file.model.operatorCodes[code] for code in codes]
        for operator in graph.operators:
            operator.opcodeIndex = codes.index(operator.opcodeIndex)
        self.file.drop_unused_buffers()
        return moved


def _form_key(index: int, grid: Quantizer) -> tuple[int, str]:
    return index, f"{grid.scale!r} {grid.zero_point} {grid.bits}"
