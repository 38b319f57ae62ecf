"""A TFLite file as Python objects: read, look up, change, write."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.nibbles import pack, unpack

DESCRIPTION = "tfdatafree"
FLOAT32 = schema.TensorType.FLOAT32
TYPE_OF_DTYPE = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int4": schema.TensorType.INT4,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
}
DTYPE_OF_TYPE = {code: dtype for dtype, code in TYPE_OF_DTYPE.items()}
_OPERATOR_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_") and name.isupper()
}
OPERATOR_CODES = {name: code for code, name in _OPERATOR_NAMES.items()}


class _Builder(flatbuffers.Builder):
    """Writes equal vectors of numbers only once, and aligns the data of buffers as the schema requires.

    A network has thousands of zero points, all 0, of 8 bytes each: 6 % of the file of MobileNetV2, 8 % of a quarter-width V1.
    """

    def __init__(self, size: int):
        super().__init__(size)
        self._places: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        if x.dtype == np.uint8:
            # The schema says `force_align: 16`. The generated code leaves this to the builder.
            self.Prep(16, x.size)
            return super().CreateNumpyVector(x)
        key = x.dtype.str, x.tobytes()
        if key not in self._places:
            self._places[key] = super().CreateNumpyVector(x)
        return self._places[key]


@dataclass
class File:
    """A file with one subgraph, as this package writes them. `model` is the schema's object tree."""

    model: Any

    @classmethod
    def parse(cls, content: bytes) -> "File":
        return cls(flatbuffer_utils.read_model_from_bytearray(content))

    def copy(self) -> "File":
        """A file that can be edited without changing this one, for a tenth of the time that parsing takes; arrays are shared."""
        graph, model = copy.copy(self.graph), copy.copy(self.model)
        graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
        graph.operators = [copy.copy(operator) for operator in graph.operators]
        for operator in graph.operators:
            operator.builtinOptions = copy.copy(operator.builtinOptions)
        model.subgraphs = [graph, *model.subgraphs[1:]]
        model.operatorCodes, model.buffers = list(model.operatorCodes), list(model.buffers)
        model.metadata = [copy.copy(entry) for entry in model.metadata or []]
        return File(model)

    def serialize(self) -> bytes:
        builder = _Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    @property
    def graph(self) -> Any:
        return self.model.subgraphs[0]

    @property
    def tensors(self) -> list:
        return self.graph.tensors

    @property
    def operators(self) -> list:
        return self.graph.operators

    @property
    def inputs(self) -> list[int]:
        return list(self.graph.inputs)

    @property
    def outputs(self) -> list[int]:
        return list(self.graph.outputs)

    def name(self, index: int) -> str:
        return _text(self.tensors[index].name)

    def dtype(self, index: int) -> str:
        return DTYPE_OF_TYPE.get(self.tensors[index].type, f"type {self.tensors[index].type}")

    def shape(self, index: int) -> tuple[int, ...]:
        shape = self.tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def operator_name(self, operator: Any) -> str:
        code = self.model.operatorCodes[operator.opcodeIndex]
        name = _OPERATOR_NAMES.get(max(code.builtinCode, code.deprecatedBuiltinCode), "UNKNOWN")
        if name == "CUSTOM":
            name = f"CUSTOM {_text(code.customCode)}"
        return name

    def constant(self, index: int) -> np.ndarray | None:
        """Value of a constant tensor, INT4 as int8. None for computed tensors, and for types that NumPy lacks."""
        tensor = self.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        if data is None or len(data) == 0 or tensor.type not in DTYPE_OF_TYPE:
            return None
        # An array is not copied, because every kernel is read many times.
        content = data if isinstance(data, np.ndarray) else bytes(data)
        if tensor.type == TYPE_OF_DTYPE["int4"]:
            shape = self.shape(index)
            return unpack(np.frombuffer(content, np.uint8), math.prod(shape)).reshape(shape)
        return np.frombuffer(content, DTYPE_OF_TYPE[tensor.type]).reshape(self.shape(index))

    def known_constant(self, index: int) -> np.ndarray:
        """Value of a tensor that is known to be constant. Raises ValueError if it is not."""
        value = self.constant(index)
        if value is None:
            raise ValueError(f"tensor '{self.name(index)}' is not constant.")
        return value

    def bias(self, operator: Any, position: int | None) -> np.ndarray | None:
        """Constant bias that the operator reads at `position`; None without one."""
        if position is None or len(operator.inputs) <= position or operator.inputs[position] < 0:
            return None
        return self.constant(operator.inputs[position])

    def quantizer(self, index: int) -> Quantizer | None:
        """The tensor's scale and zero point in the file; None for a tensor without them."""
        tensor = self.tensors[index]
        quantization = tensor.quantization
        if quantization is None or quantization.scale is None or len(quantization.scale) == 0:
            return None
        name = self.dtype(index)
        dtype = np.dtype("int8" if name == "int4" else name)
        scale, zero_point = np.asarray(quantization.scale), np.asarray(quantization.zeroPoint)
        bits, signed = 4 if name == "int4" else 8 * dtype.itemsize, dtype.kind == "i"
        if scale.size == 1:
            return Quantizer(float(scale[0]), int(zero_point[0]), bits, signed=signed)
        return Quantizer(scale, zero_point, bits, int(quantization.quantizedDimension), signed=signed)

    def known_quantizer(self, index: int) -> Quantizer:
        """The grid of a tensor that is known to have one. Raises ValueError if it has none."""
        quantizer = self.quantizer(index)
        if quantizer is None:
            raise ValueError(f"tensor '{self.name(index)}' has no grid.")
        return quantizer

    def set_quantized(self, index: int, quantizer: Quantizer, dtype: str) -> None:
        """Declares tensor `index` to hold integers of type `dtype` on the grid of `quantizer`."""
        tensor = self.tensors[index]
        tensor.type = TYPE_OF_DTYPE[dtype]
        quantization = schema.QuantizationParametersT()
        quantization.scale = np.atleast_1d(np.asarray(quantizer.scale, np.float32))
        quantization.zeroPoint = np.atleast_1d(np.asarray(quantizer.zero_point, np.int64))
        quantization.quantizedDimension = quantizer.channel_axis or 0
        tensor.quantization = quantization

    def set_constant(self, index: int, value: np.ndarray, *, packed: bool = False) -> None:
        """Gives tensor `index` a new buffer that holds `value`, with two 4-bit integers per byte if `packed`."""
        buffer = schema.BufferT()
        buffer.data = pack(value) if packed else np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.tensors[index].buffer = len(self.model.buffers) - 1
        self.tensors[index].shape = list(value.shape)

    def add_tensor(self, name: str, like: int) -> int:
        """Appends a computed tensor with the shape and type of tensor `like`; returns its index."""
        tensor = schema.TensorT()
        tensor.name, tensor.buffer = name, 0
        tensor.shape = list(self.shape(like))
        tensor.type = self.tensors[like].type
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator_code(self, name: str, version: int) -> int:
        """Index of the operator code (name, version), which is appended if it is missing."""
        builtin = OPERATOR_CODES[name]
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin and code.version == version:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def new_operator(self, name: str, source: int, target: int, version: int) -> Any:
        """An operator with one input and one output, not yet in the graph."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self.operator_code(name, version)
        operator.inputs, operator.outputs = [source], [target]
        return operator

    def input_names(self) -> list[str]:
        """Names of the inputs in the signature, in the file's order; those of the tensors if there is no signature."""
        return self._signed(self.inputs, "inputs")

    def output_names(self) -> list[str]:
        """The same of the outputs."""
        return self._signed(self.outputs, "outputs")

    def _signed(self, indices: Sequence[int], kind: str) -> list[str]:
        signed = getattr(self.model.signatureDefs[0], kind) if self.model.signatureDefs else []
        names = {entry.tensorIndex: _text(entry.name) for entry in signed}
        return [names.get(index, self.name(index)) for index in indices]

    def metadata(self, name: str) -> bytes | None:
        """Content of the metadata entry `name`; None without one."""
        for entry in self.model.metadata or []:
            if _text(entry.name) == name:
                data = self.model.buffers[entry.buffer].data
                return None if data is None else bytes(data)
        return None

    def set_metadata(self, name: str, content: bytes) -> None:
        """Adds a metadata entry with a buffer of its own, or gives the one of this name a new buffer."""
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(content, np.uint8)
        self.model.buffers.append(buffer)
        entry.name, entry.buffer = name, len(self.model.buffers) - 1
        others = [other for other in self.model.metadata or [] if _text(other.name) != name]
        self.model.metadata = [*others, entry]

    def sign(self, input_names: Sequence[str], output_names: Sequence[str]) -> None:
        """Sets the file's description, and a signature with these names of its inputs and outputs."""
        self.model.description = DESCRIPTION
        if not input_names:
            return
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs = _tensor_map(input_names, self.inputs)
        signature.outputs = _tensor_map(output_names, self.outputs)
        self.model.signatureDefs = [signature]

    def only(self, operator: Any) -> "File":
        """A file with this operator alone. Its inputs are those of the operator that are not constant, each once."""
        model, graph = copy.copy(self.model), copy.copy(self.graph)
        graph.operators, graph.outputs = [operator], list(operator.outputs)
        graph.inputs = [
            index for index in dict.fromkeys(operator.inputs) if index >= 0 and self.constant(index) is None
        ]
        model.subgraphs, model.signatureDefs = [graph], []
        return File(model)

    def drop_unused_buffers(self) -> None:
        """Removes buffers that no tensor and no metadata refers to, such as the float weights after quantization."""
        used = {0} | {tensor.buffer for tensor in self.tensors}
        used |= {entry.buffer for entry in self.model.metadata or []}
        order = sorted(used)
        new_index = {old: new for new, old in enumerate(order)}
        self.model.buffers = [self.model.buffers[old] for old in order]
        for owner in [*self.tensors, *(self.model.metadata or [])]:
            owner.buffer = new_index[owner.buffer]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _tensor_map(names: Sequence[str], indices: Sequence[int]) -> list[Any]:
    entries, taken = [], set()
    for name, index in zip(names, indices, strict=True):
        # Keras gives all outputs of a nested model the same name, but a signature needs different ones.
        unique = next(n for n in (name, *(f"{name}_{i}" for i in range(1, len(names)))) if n not in taken)
        taken.add(unique)
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = unique, index
        entries.append(entry)
    return entries
