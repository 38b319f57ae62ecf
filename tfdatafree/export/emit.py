"""Carries out a plan: rewrites the float file into the integer file.

If a kernel needs another grid than its input has, a QUANTIZE operator is inserted. Operators that stay in float compute
between DEQUANTIZE and QUANTIZE.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdatafree.export.constants import Constant, integer_bias
from tfdatafree.export.inverse_roots import finer_grid
from tfdatafree.export.plan import Plan, Spec, float_operands, operand_grid, plan_file, tensor_name
from tfdatafree.numerics.affine import Quantizer, activation_quantizer
from tfdatafree.tflite.flatbuffer import FLOAT32, File
from tfdatafree.tflite.metadata import serialize
from tfdatafree.tflite.operators import OPERATORS, Operator


@dataclass(frozen=True)
class IntegerModel:
    """An integer file, and where the float file's tensors are in it.

    Attributes:
        content: The file.
        grids: Float-file tensor index -> grid of its integers.
        index_of: Float-file tensor index -> index in `content`, for activations that are integers there.
        kernel_of: Float-file index of a weight tensor -> the integers in the file, after any adjustment.
        index_of_kernel: Float-file index of a weight tensor -> its index in `content`.
        constants: Index in `content` -> integers and grid of a bias or of another constant operand.
        float_reasons: Operator and output name -> why it computes in float.
        adjusted: Layer -> why its scale was changed, or why its 4-bit weights take a byte each.
        requantized: Number of QUANTIZE operators between integers that were added.
    """

    content: bytes
    grids: dict[int, Quantizer]
    index_of: dict[int, int]
    kernel_of: dict[int, Constant]
    index_of_kernel: dict[int, int]
    constants: dict[int, Constant]
    float_reasons: dict[str, str]
    adjusted: dict[str, str]
    requantized: int


def quantize_file(file: File, spec: Spec) -> IntegerModel:
    """Integer version of a float file, which is not changed.

    Raises:
        ExportError: As for `plan_file`.
    """
    return emit(file.copy(), plan_file(file, spec))


def emit(file: File, plan: Plan) -> IntegerModel:
    """Rewrites `file`, for which `plan` was made, into the integer file."""
    return _Emitter(file, plan).write()


def integer_dtype(bits: int) -> str:
    return "int8" if bits <= 8 else "int16"


class _Emitter:
    def __init__(self, file: File, plan: Plan):
        self.file, self.plan, self.spec, self.bits = file, plan, plan.spec, plan.spec.activation_bits
        self.kernel_index: dict[int, int] = {}
        self.constants: dict[int, Constant] = {}
        self.requantized = 0
        self.forms: dict[tuple[int, str], int] = {}
        # Grid of the integers that an operator writes. If it is not the tensor's own grid, a QUANTIZE follows.
        self.written: dict[int, Quantizer] = {}
        self.home: dict[int, str] = dict.fromkeys(file.inputs, "integer")

    def write(self) -> IntegerModel:
        originals = list(self.file.operators)
        self.file.graph.operators = []
        for index in self.file.inputs:
            if index in self.plan.float_tensors:
                self.add_input_edge(index)
        for operator, row, bits in zip(originals, self.plan.rows, self.plan.widths, strict=True):
            if row is None:
                self.keep_float(operator)
            else:
                self.make_integer(operator, row, bits)
            self.file.graph.operators.append(operator)
        outputs = [self.output_edge(index) for index in self.file.outputs]
        inputs = [self.forms.get((index, "edge"), index) for index in self.file.inputs]
        self.file.graph.inputs, self.file.graph.outputs = inputs, outputs
        new_index = self.compact()
        self.file.sign(self.spec.input_names, self.spec.output_names)
        index_of = {}
        for old, grid in self.plan.grids.items():
            # If a float operator writes a tensor and an integer operator reads it, all readers get the integer form.
            integer_index = old if self.written.get(old) == grid else self.forms.get(_form_key(old, grid))
            if integer_index in new_index:
                index_of[old] = new_index[integer_index]
        return IntegerModel(
            content=serialize(self.file, self.spec.about),
            grids={old: self.plan.grids[old] for old in index_of},
            index_of=index_of,
            kernel_of={index: self.plan.kernels[index] for index in self.kernel_index},
            index_of_kernel={old: new_index[new] for old, new in self.kernel_index.items()},
            constants={new_index[new]: constant for new, constant in self.constants.items()},
            float_reasons=dict(self.plan.float_reasons),
            adjusted=dict(self.plan.adjusted),
            requantized=self.requantized,
        )

    def name(self, index: int) -> str:
        return tensor_name(self.file, self.spec, index)

    def is_constant(self, index: int) -> bool:
        return self.file.constant(index) is not None

    # The file's edges -------------------------------------------------------------------------------------------------

    def add_input_edge(self, index: int) -> None:
        grid = self.plan.grids[index]
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
        """Grid of a uint8 input or output with int8 activations; None for the activations' own type, and for float."""
        if self.spec.edge_dtype != "uint8":
            return None
        return Quantizer(grid.scale, grid.zero_point + 128, 8, signed=False)

    def output_edge(self, index: int) -> int:
        if index not in self.plan.float_tensors:
            return index
        if self.spec.edge_dtype == "float32":
            return self.float_form(index)
        grid = self.plan.grid_at(index, self.bits)
        inner = self.integer_form(index, grid)
        edge = self.edge_grid(grid)
        if edge is None:
            return inner
        outer = self.file.add_tensor(f"{self.name(index)}_{self.spec.edge_dtype}", inner)
        self.file.set_quantized(outer, edge, self.spec.edge_dtype)
        self.append("QUANTIZE", inner, outer, 2)
        return outer

    # Operators --------------------------------------------------------------------------------------------------------

    def append(self, name: str, source: int, target: int, version: int) -> None:
        self.file.graph.operators.append(self.file.new_operator(name, source, target, version))

    def keep_float(self, operator) -> None:
        operator.inputs = [
            self.float_form(i) if i in self.plan.float_tensors and not self.is_constant(i) else i
            for i in operator.inputs
        ]
        self.home.update((index, "float") for index in operator.outputs)

    def float_form(self, index: int) -> int:
        """The tensor as float32: itself, or the output of a DEQUANTIZE, so that all readers get the same values."""
        if self.home.get(index) != "integer" and (
            index not in self.plan.read_as_integers or index not in self.plan.grids
        ):
            return index
        key = (index, "float")
        if key not in self.forms:
            source = self.integer_form(index, self.plan.grids[index])
            self.forms[key] = self.file.add_tensor(f"{self.name(index)}_float", index)
            self.file.tensors[self.forms[key]].type = FLOAT32
            self.append("DEQUANTIZE", source, self.forms[key], 2)
        return self.forms[key]

    def integer_form(self, index: int, grid: Quantizer) -> int:
        """The tensor as integers on `grid`: itself, or the output of a QUANTIZE."""
        if self.written.get(index) == grid:
            return index
        key = _form_key(index, grid)
        if key not in self.forms:
            own = self.plan.grids[index]
            source = index if grid == own else self.integer_form(index, own)
            self.forms[key] = self.file.add_tensor(f"{self.name(index)}_requantized", index)
            self.file.set_quantized(self.forms[key], grid, integer_dtype(grid.bits))
            self.append("QUANTIZE", source, self.forms[key], 2)
            self.requantized += source != index or self.home.get(index) == "integer"
        return self.forms[key]

    def make_integer(self, operator, row: Operator, bits: int) -> None:
        outputs = [index for index in operator.outputs if index in self.plan.float_tensors]
        inputs = list(operator.inputs)
        for position in float_operands(self.file, self.plan.float_tensors, operator, row):
            index = inputs[position]
            if self.is_constant(index):
                shared = self.plan.grids[outputs[0]] if row.grid == "all" else None
                inputs[position] = self.constant_operand(index, shared, bits)
            else:
                shared = (
                    self.plan.grids[outputs[0]] if row.grid != "own" and outputs else self.plan.grid_at(index, bits)
                )
                inputs[position] = self.integer_form(index, shared)
        if row.kernel is not None:
            source = self.plan.grid_at(operator.inputs[row.source], bits)
            inputs[row.kernel], bias = self.kernel(operator, row, source)
            if bias is not None and row.bias is not None:
                inputs[row.bias] = bias
        operator.inputs = inputs
        for index in outputs:
            self.written[index] = self.written_grid(index, row, bits)
            self.file.set_quantized(index, self.written[index], integer_dtype(bits))
            self.home[index] = "integer"
        name = self.file.operator_name(operator)
        version = max(self.file.model.operatorCodes[operator.opcodeIndex].version, row.versions[bits])
        if row.kernel is not None and self.file.dtype(inputs[row.kernel]) == "int4":
            version = max(version, row.int4[bits])
        operator.opcodeIndex = self.file.operator_code(name, version)
        if bits == 16 and hasattr(operator.builtinOptions, "potScaleInt16"):
            operator.builtinOptions.potScaleInt16 = False
        if bits == 16 and name == "RSQRT":
            self.use_two_tables(operator)

    def use_two_tables(self, operator) -> None:
        """Makes a 16-bit RSQRT the smaller of two, as `inverse_roots.py` says."""
        source, target = int(operator.inputs[0]), int(operator.outputs[0])
        grid, fine = self.file.known_quantizer(target), self.file.add_tensor(f"{self.name(source)}_fine", source)
        self.file.set_quantized(fine, finer_grid(self.file.known_quantizer(source)), "int16")
        self.append("QUANTIZE", source, fine, 2)
        roots = []
        for x in (source, fine):
            roots.append(self.file.add_tensor(f"{self.name(target)}_{len(roots)}", target))
            self.file.set_quantized(roots[-1], grid, "int16")
            self.append("RSQRT", x, roots[-1], OPERATORS["RSQRT"].versions[16])
        operator.opcodeIndex = self.file.operator_code("MINIMUM", OPERATORS["MINIMUM"].versions[16])
        operator.inputs = roots

    def written_grid(self, index: int, row: Operator, bits: int) -> Quantizer:
        """Grid on which an operator with `bits` bits writes: the tensor's own, or a finer one for the same range."""
        own = self.plan.grids[index]
        if own.bits == bits:
            return own
        if row.fixed:
            return Quantizer(row.fixed[bits].scale, row.fixed[bits].zero_point, bits)
        return activation_quantizer(float(own.low), float(own.high), bits, symmetric=True)

    def constant_operand(self, index: int, grid: Quantizer | None, bits: int) -> int:
        value = self.file.known_constant(index)
        if grid is None:
            grid = operand_grid(value, bits)
        new = self.file.add_tensor(self.file.name(index), index)
        self.constants[new] = Constant(grid.quantize(value), grid)
        self.file.set_constant(new, self.constants[new].values)
        self.file.set_quantized(new, grid, integer_dtype(grid.bits))
        return new

    def kernel(self, operator: Any, row: Operator, source: Quantizer) -> tuple[int, int | None]:
        """Indices of the integer kernel and bias of an operator with weights; `source` is the grid of its input."""
        index = int(operator.inputs[row.kernel])
        kernel, layer = self.plan.kernels[index], self.name(operator.outputs[0])
        if index not in self.kernel_index:
            new = self.file.add_tensor(f"{layer}/kernel", index)
            packed = index in self.plan.packed
            self.file.set_constant(new, kernel.values.astype(np.int8), packed=packed)
            self.file.set_quantized(new, kernel.quantizer, "int4" if packed else "int8")
            self.kernel_index[index] = new
        bias = self.file.bias(operator, row.bias)
        if bias is None:
            return self.kernel_index[index], None
        new = self.file.add_tensor(f"{layer}/bias", operator.inputs[row.bias])
        self.constants[new] = integer_bias(bias, kernel, float(source.scale), source.bits)
        self.file.set_constant(new, self.constants[new].values)
        self.file.set_quantized(new, self.constants[new].quantizer, "int32" if source.bits == 8 else "int64")
        return self.kernel_index[index], new

    # Finishing --------------------------------------------------------------------------------------------------------

    def compact(self) -> dict[int, int]:
        """Renames tensors, removes those that nothing refers to, and returns {old index: new index}."""
        graph = self.file.graph
        used = {*graph.inputs, *graph.outputs}
        for operator in graph.operators:
            used.update(i for i in (*operator.inputs, *operator.outputs) if i >= 0)
        for index, name in self.spec.names.items():
            self.file.tensors[index].name = name
        order = sorted(used)
        new_index = {old: new for new, old in enumerate(order)}
        renumber: Callable[[int], int] = lambda i: new_index[i] if i >= 0 else -1  # noqa: E731
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
        return new_index


def _form_key(index: int, grid: Quantizer) -> tuple[int, str]:
    return index, f"{grid.scale!r} {grid.zero_point} {grid.bits}"
