"""Float graph, chosen weights and ranges in; verified integer file and its simulation out."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfdatafree.export.float_model import FloatModel, convert
from tfdatafree.export.integer import IntegerModel, Spec, quantize_file, tensors_without_grid
from tfdatafree.export.kernels import Kernel
from tfdatafree.export.layout import kernel_for
from tfdatafree.export.verify import TensorCheck, check_parity, compare_tensors, verify_content
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import from_output_last, kernel_of, layout_of, with_kernel
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.headroom import widen_decisions
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.quantization.placement import float_nodes, ruled_bits
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.rules import NO_RULES, LayerRules
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.operators import OPERATORS
from tfdatafree.tflite.runtime import Runner

# Bytes of the tensors that are looked at in one run of a float file.
_MEASURED_BYTES = 2**27


@dataclass(frozen=True)
class Built:
    """An integer file that was read back and found to be what was decided.

    Attributes:
        content: The file; None for a simulation of what no file can hold.
        graph: The graph with the file's weights and biases, as floats.
        grids: Graph tensor -> grid of the file's integers.
        checks: Graph tensor -> parity and SQNR on the probe inputs.
        kernels: Layer key -> weight quantizer as written.
        kept_float: Operator -> why it computes in float.
        notes: Layer or tensor -> what a user should know about it.
        requantized: QUANTIZE operators between integers that were added.
        ranges: Graph tensor -> range, headroom included.
        inner: The same, and those of tensors inside operations, by their names in the float file.
    """

    content: bytes | None
    graph: Graph
    grids: dict[str, Quantizer]
    checks: dict[str, TensorCheck]
    kernels: dict[str, Quantizer]
    kept_float: dict[str, str]
    notes: dict[str, str]
    requantized: int
    ranges: dict[str, Range]
    inner: dict[str, Range]


def build_integer_file(
    graph: Graph,
    teacher: Graph,
    kernels: Mapping[str, IntegerKernel],
    ranges: Mapping[str, Range],
    inputs: Sequence[np.ndarray],
    options: Quantize,
    *,
    probes: int = 2,
    rules: LayerRules = NO_RULES,
    input_grid: tuple[str, ...] = (),
    inner: Mapping[str, Range] | None = None,
) -> Built:
    """Writes and verifies the integer file of `graph`.

    Args:
        graph: Kernels on their grids, biases corrected.
        teacher: The float graph, for SQNR.
        kernels: Layer key -> integers of its kernel.
        ranges: Graph tensor -> range.
        inputs: Generated inputs; the first `probes` verify the file.
        rules: What single layers get.
        input_grid: TFLite operators whose output gets the grid of its input (`Target.input_grid`).
        inner: `Built.inner` of a file of the same graph with other weights: all grids become that file's. None: ranges
            inside operations are measured, and decisions get headroom.

    Raises:
        ExportError: The file would not be what was decided; names the tensor.
    """
    float_model, file, spec = _decided(graph, kernels, ranges, inputs, options, rules, input_grid, inner)
    layers_of = float_model.layer_of
    exempt = _exempt(graph, float_model, file, layers_of)

    def write(spec: Spec) -> tuple[IntegerModel, Graph, dict[str, Quantizer], dict[str, TensorCheck]]:
        result = quantize_file(float_model.content, spec)
        verify_content(result, spec)
        student = _as_written(graph, file, result, layers_of)
        held = {tensor: old for tensor, old in float_model.tensor_of.items() if old in result.index_of}
        grids = {tensor: result.grids[old] for tensor, old in held.items()}
        index_of = {tensor: result.index_of[old] for tensor, old in held.items()}
        some = [array[:probes] for array in inputs]
        checks = compare_tensors(result.content, student, teacher, grids, index_of, some)
        check_parity(checks, grids, exempt, _table_lsb(float_model, file, grids))
        return result, student, grids, checks

    result, student, grids, checks = write(spec)
    noise = {tensor: check.noise for tensor, check in checks.items()}
    wider = widen_decisions(graph, ranges, noise, grids) if inner is None else {}
    if wider:
        more = {float_model.tensor_of[tensor]: range_ for tensor, range_ in wider.items()}
        spec = dataclasses.replace(spec, ranges={**spec.ranges, **more})
        result, student, grids, checks = write(spec)
    notes = dict(result.adjusted)
    notes |= {tensor: reason for tensor, reason in exempt.items() if tensor in checks and checks[tensor].lsb > 1}
    written = {key: result.kernel_of[old].quantizer for old, key in layers_of.items() if old in result.kernel_of}
    return Built(
        result.content,
        student,
        grids,
        checks,
        written,
        result.kept_float,
        notes,
        result.requantized,
        {**ranges, **wider},
        {file.name(index): range_ for index, range_ in spec.ranges.items()},
    )


@dataclass(frozen=True)
class Storage:
    """What the file of a model with 4-bit weights takes.

    Attributes:
        bytes: With a byte for every weight, as if they had 8 bits.
        packed_bytes: With those of 4 bits two to a byte, where their operators read that.
        weights: Layer key -> weights of its integer kernel.
        packed: Layers whose weights lie two to a byte.
    """

    bytes: int
    packed_bytes: int
    weights: dict[str, int]
    packed: frozenset[str]


def storage(
    graph: Graph,
    kernels: Mapping[str, IntegerKernel],
    ranges: Mapping[str, Range],
    inputs: Sequence[np.ndarray],
    options: Quantize,
    rules: LayerRules = NO_RULES,
) -> Storage:
    """Storage of the file that `build_integer_file` would write; the arguments are its, the file is not verified."""
    float_model, _, spec = _decided(graph, kernels, ranges, inputs, options, rules)
    whole, packed = (quantize_file(float_model.content, dataclasses.replace(spec, int4=int4)) for int4 in (False, True))
    file, weights, halved = File.parse(packed.content), {}, set()
    for old, key in float_model.layer_of.items():
        if old in packed.kernel_of:
            weights[key] = weights.get(key, 0) + packed.kernel_of[old].values.size
            if file.dtype(packed.index_of_kernel[old]) == "int4":
                halved.add(key)
    return Storage(len(whole.content), len(packed.content), weights, frozenset(halved))


def _decided(
    graph: Graph,
    kernels: Mapping[str, IntegerKernel],
    ranges: Mapping[str, Range],
    inputs: Sequence[np.ndarray],
    options: Quantize,
    rules: LayerRules,
    input_grid: tuple[str, ...] = (),
    inner: Mapping[str, Range] | None = None,
) -> tuple[FloatModel, File, Spec]:
    """The float file of `graph`, the same parsed, and how it is to be quantized."""
    float_model = convert(graph, [array[:1] for array in inputs])
    file = File.parse(float_model.content)
    known = inner or {}
    file_ranges = {index: known[name] for index in range(len(file.tensors)) if (name := file.name(index)) in known}
    file_ranges |= {index: ranges[tensor] for tensor, index in float_model.tensor_of.items() if tensor in ranges}
    spec = Spec(
        file_ranges,
        _file_kernels(graph, file, float_model.layer_of, kernels),
        {index: tensor for tensor, index in float_model.tensor_of.items()},
        activation_bits=options.activation_bits,
        tensor_bits=_ruled_bits(graph, float_model, rules),
        floats=_floats(graph, float_model, file, rules),
        kernel_bits=options.weight_bits,
        per_channel=options.one_step_per_channel(dense=False),
        dense_per_channel=options.one_step_per_channel(dense=True),
        input_grid=input_grid,
        int4=bool(options.int4),
        edge_dtype=options.edge_dtype,
        input_names=tuple(graph.inputs),
        output_names=tuple(graph.output_names),
    )
    missing = tensors_without_grid(file, spec)
    file_ranges |= _measure(float_model.content, missing, inputs)
    return float_model, file, dataclasses.replace(spec, ranges=file_ranges)


def _file_kernels(
    graph: Graph, file: File, layers_of: Mapping[int, str], kernels: Mapping[str, IntegerKernel]
) -> dict[int, Kernel]:
    """The integers of `kernels` by weight tensor of the file, in its order of axes."""
    found = {}
    for index, key in layers_of.items():
        layer = graph.layers[key]
        if key not in kernels:
            continue
        keras_values = from_output_last(kernels[key].values, kernel_of(layer).shape, layout_of(layer))
        found[index] = kernel_for(kernels[key], keras_values, layout_of(layer), file.constant(index))
    return found


def _ruled_bits(graph: Graph, float_model: FloatModel, rules: LayerRules) -> dict[int, int]:
    """{tensor of the file: bits that a rule gives it}."""
    ruled, outputs = ruled_bits(graph, rules), {node.name: node.outputs for node in graph.nodes}
    inside = {
        index: ruled[outputs[name][0]] for index, name in float_model.node_of.items() if outputs[name][0] in ruled
    }
    return inside | {float_model.tensor_of[t]: bits for t, bits in ruled.items() if t in float_model.tensor_of}


def _floats(graph: Graph, float_model: FloatModel, file: File, rules: LayerRules) -> dict[int, str]:
    """{tensor of the file: why the operator that writes it computes in float}."""
    floats, found = float_nodes(graph, rules), {}
    by_layer = {node.layer: floats[node.name] for node in graph.nodes if node.name in floats}
    for operator in file.operators if floats else ():
        rule = OPERATORS.get(file.operator_name(operator))
        kernel = None if rule is None or rule.kernel is None else int(operator.inputs[rule.kernel])
        for index in operator.outputs:
            reason = floats.get(float_model.node_of.get(index, "")) or by_layer.get(
                float_model.layer_of.get(kernel, "")
            )
            if reason is not None:
                found[index] = reason
    return found


def _measure(content: bytes, tensors: Sequence[int], inputs: Sequence[np.ndarray]) -> dict[int, Range]:
    """Ranges of tensors inside Keras operations that became several operators, by running the float file."""
    found: dict[int, Range] = {}
    for part in _parts(content, tensors):
        # LiteRT's own kernels, as where the file's tensors are compared: the runtime's faster ones round otherwise.
        runner = Runner(_ending_at(content, part), delegate=False)
        for at in range(len(inputs[0])):
            for index, value in zip(part, runner.run([array[at : at + 1] for array in inputs]), strict=True):
                if value.size == 0 or not np.isfinite(value).all():
                    continue
                low, high = float(value.min()), float(value.max())
                before = found.get(index, Range(low, high))
                found[index] = Range(min(low, before.low), max(high, before.high))
    return found


def _parts(content: bytes, tensors: Sequence[int]) -> Iterator[list[int]]:
    """`tensors` in their order, as many at a time as are held in `_MEASURED_BYTES`."""
    file, part, held = File.parse(content), [], 0
    for index in tensors:
        size = 4 * math.prod(file.shape(index))
        if part and held + size > _MEASURED_BYTES:
            yield part
            part, held = [], 0
        part.append(index)
        held += size
    if part:
        yield part


def _ending_at(content: bytes, tensors: Sequence[int]) -> bytes:
    """The file with these tensors for its outputs, and only the operators that they need."""
    file = File.parse(content)
    needed, operators = set(tensors), []
    for operator in reversed(file.operators):
        if needed.intersection(operator.outputs):
            needed.update(operator.inputs)
            operators.append(operator)
    file.graph.operators, file.graph.outputs = operators[::-1], list(tensors)
    file.model.signatureDefs = []
    return file.serialize()


def _as_written(graph: Graph, float_file: File, result: IntegerModel, layers_of: Mapping[int, str]) -> Graph:
    """`graph` with each kernel and bias replaced by the float value of the file's integers."""
    graph = graph.copy()
    file = File.parse(result.content)
    calls = graph.calls()
    float_biases = _biases(float_file)
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        if rule is None or rule.kernel is None:
            continue
        old = next((o for o, new in result.index_of_kernel.items() if new == operator.inputs[rule.kernel]), None)
        if old not in layers_of:
            continue
        key = layers_of[old]
        layer = graph.layers[key]
        float_bias = float_biases.get(old) if calls[key] == 1 else None
        graph.layers[key] = _with_file_values(layer, result.kernel_of[old], file, operator, rule, float_bias)
    return graph


def _biases(file: File) -> dict[int, np.ndarray]:
    """Weight tensor -> the constant bias of the operator that multiplies by it."""
    found = {}
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        if (
            rule is not None
            and rule.bias is not None
            and len(operator.inputs) > rule.bias
            and operator.inputs[rule.bias] >= 0
        ):
            bias = file.constant(operator.inputs[rule.bias])
            if bias is not None:
                found[int(operator.inputs[rule.kernel])] = bias
    return found


def _with_file_values(layer: Layer, kernel: Kernel, file: File, operator, rule, float_bias: np.ndarray | None) -> Layer:
    layout, shape = layout_of(layer), kernel_of(layer).shape
    values = kernel.quantizer.dequantize(kernel.values)
    if layout.kind == "depthwise":
        keras_kernel = values.reshape(shape)
    else:
        matrix = np.moveaxis(values, 0, -1).reshape(-1, values.shape[0])
        keras_kernel = from_output_last(matrix, shape, layout)
    layer = with_kernel(layer, keras_kernel)
    if float_bias is not None and layer.weight("bias") is not None:
        index = operator.inputs[rule.bias]
        steps = np.asarray(file.tensors[index].quantization.scale, np.float64)
        # Only the rounding is taken over: the converter may have merged a constant that the graph adds later.
        rounding = file.constant(index) * steps - float_bias
        layer = layer.with_weights(bias=(layer.weight("bias") + rounding).astype(np.float32))
    return layer


def _exempt(graph: Graph, float_model: FloatModel, file: File, layers_of: Mapping[int, str]) -> dict[str, str]:
    """Graph tensors that the simulation need not hit within one step, and why."""
    reasons: dict[str, str] = {}
    matched = set(float_model.tensor_of.values())
    producers = {node.name: node for node in graph.nodes}
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        for index in operator.outputs:
            node = producers.get(float_model.node_of.get(index, ""))
            if node is None:
                continue
            if index not in matched:
                reasons[node.output] = "computed by several integer operators, simulated as one"
            elif rule is not None and rule.kernel is not None and operator.inputs[rule.kernel] not in layers_of:
                reasons[node.output] = "the converter merged another operation into this layer's weights"
    return reasons


def _table_lsb(float_model: FloatModel, file: File, grids: Mapping[str, Quantizer]) -> dict[str, int]:
    """Graph tensors whose operator works by an approximating table, or with rounded positions -> steps it may be off."""
    names = {index: tensor for tensor, index in float_model.tensor_of.items() if tensor in grids}
    found: dict[str, int] = {}
    for operator in file.operators:
        name = file.operator_name(operator)
        rule = OPERATORS.get(name)
        for index in operator.outputs if rule is not None else ():
            if index in names and (lsb := rule.table_lsb.get(grids[names[index]].bits)) is not None:
                found[names[index]] = lsb
        if name == "RESIZE_BILINEAR" and operator.outputs[0] in names:
            before, after = (file.shape(index)[1:3] for index in (operator.inputs[0], operator.outputs[0]))
            resized = names[operator.outputs[0]]
            found[resized] = _resize_lsb(before, after, grids[resized].bits)
    return found


def _resize_lsb(before: Sequence[int], after: Sequence[int], bits: int) -> int:
    """Steps by which the integer kernel may miss a bilinear resizing from `before` to `after` (height, width).

    It goes from pixel to pixel by a ratio of 10 fractional bits: exact for powers of two, else the last pixel is read
    beside its place, where the tensor may change by all of its range from one pixel to the next.
    """
    one = 1 << 10
    beside = sum(new * abs(round(one * old / new) / one - old / new) for old, new in zip(before, after, strict=True))
    return math.ceil((2**bits - 1) * beside)
