"""Builds the integer file of a decision and verifies it."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfdatafree.export.constants import Constant
from tfdatafree.export.emit import IntegerModel, quantize_file
from tfdatafree.export.file_constants import with_file_constants
from tfdatafree.export.float_model import FloatModel, convert
from tfdatafree.export.plan import Spec, tensors_without_grid
from tfdatafree.export.tolerance import exempt, poor_parts, table_lsb
from tfdatafree.export.trial import require_runnable
from tfdatafree.export.verify import TensorCheck, check_parity, compare_tensors, output_noise, verify_content
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import with_kernel
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.headroom import widen_decisions
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.quantization.placement import Placement
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.metadata import About
from tfdatafree.tflite.operators import OPERATORS
from tfdatafree.tflite.runtime import Runner

# Bytes of the tensors that are looked at in one run of a float file.
_MEASURED_BYTES = 2**27


@dataclass(frozen=True, kw_only=True)
class Built:
    """A verified file, or the simulation of a network that no file can hold.

    Attributes:
        content: The file; None for a simulation.
        graph: The graph with the file's weights and biases, as floats.
        grids: Graph tensor -> grid of the file's integers; empty for a float file.
        checks: Graph tensor -> parity and SQNR on the probe inputs.
        kernels: Layer -> integers of its kernel in the file.
        packed: Layers whose kernel the file holds with two 4-bit weights per byte.
        float_reasons: Operator -> why it computes in float.
        notes: Layer or tensor -> what a user should know about it.
        requantized: Number of QUANTIZE operators between integers that were added.
        ranges: Graph tensor -> range, headroom included.
        file_ranges: Float-file tensor name -> range, also of tensors inside operations.
        tail: Joins the file's outputs to those of the model; None if they are the same.
    """

    content: bytes | None
    graph: Graph
    grids: Mapping[str, Quantizer] = field(default_factory=dict)
    checks: Mapping[str, TensorCheck] = field(default_factory=dict)
    kernels: Mapping[str, IntegerKernel] = field(default_factory=dict)
    packed: frozenset[str] = frozenset()
    float_reasons: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    requantized: int = 0
    ranges: Mapping[str, Range] = field(default_factory=dict)
    file_ranges: Mapping[str, Range] = field(default_factory=dict)
    tail: Graph | None = None


def build_integer_file(decision: Decision, inputs: Sequence[np.ndarray], *, probes: int = 2) -> Built:
    """Writes and verifies the integer file of `decision`.

    Args:
        inputs: Generated (or given) inputs; the first `probes` verify the file.

    Raises:
        ExportError: The file would not be what was decided; names the tensor.
    """
    graph = decision.graph
    float_model = convert(graph, [array[:1] for array in inputs])
    file = float_model.file
    spec = _spec(decision, float_model, inputs)
    reasons = exempt(graph, float_model, file, float_model.layer_of)
    probe_inputs = [array[:probes] for array in inputs]
    widened: Mapping[str, Range] = {}
    if decision.file_ranges is None:
        widened = _widened(decision, float_model, spec, probe_inputs)
        by_index = {float_model.tensor_of[tensor]: range_ for tensor, range_ in widened.items()}
        spec = dataclasses.replace(spec, ranges={**spec.ranges, **by_index})
    written = _write(decision, float_model, spec, reasons, probe_inputs)
    poor = poor_parts(float_model, graph, written.checks, reasons)
    if poor:
        spec = dataclasses.replace(spec, float_rules={**poor, **spec.float_rules})
        written = _write(decision, float_model, spec, reasons, probe_inputs)
    return dataclasses.replace(
        written,
        ranges={**decision.ranges, **widened},
        file_ranges={file.name(index): range_ for index, range_ in spec.ranges.items()},
    )


def _widened(
    decision: Decision, float_model: FloatModel, spec: Spec, probes: Sequence[np.ndarray]
) -> Mapping[str, Range]:
    """Ranges of the decision tensors with headroom, from their noise in the file of `spec`."""
    tensors = [tensor for tensor in decision_tensors(decision.graph) if tensor in decision.ranges]
    if not tensors:
        return {}
    result = quantize_file(float_model.file, spec)
    require_runnable(result.content, verify_content(result, spec))
    grids, index_of = _in_graph(float_model, result)
    reference = decision.reference.up_to([tensor for tensor in tensors if tensor in grids])
    noise = output_noise(result.content, reference, grids, index_of, probes)
    return widen_decisions(decision, noise, grids)


def _in_graph(float_model: FloatModel, result: IntegerModel) -> tuple[dict[str, Quantizer], dict[str, int]]:
    """Graph tensor -> its grid, and its index in the integer file."""
    float_index = {tensor: old for tensor, old in float_model.tensor_of.items() if old in result.index_of}
    grids = {tensor: result.grids[old] for tensor, old in float_index.items()}
    return grids, {tensor: result.index_of[old] for tensor, old in float_index.items()}


def _write(
    decision: Decision,
    float_model: FloatModel,
    spec: Spec,
    exempted: Mapping[str, str],
    probes: Sequence[np.ndarray],
) -> Built:
    """Writes the file of `spec`, reads it back and compares it on `probes`. The result lacks its ranges."""
    file, layers_of = float_model.file, float_model.layer_of
    result = quantize_file(file, spec)
    written = verify_content(result, spec)
    require_runnable(result.content, written)
    graph = _as_written(decision.graph, file, written, result, layers_of)
    node_of = {result.index_of[old]: node for old, node in float_model.node_of.items() if old in result.index_of}
    graph = with_file_constants(graph, written, result.constants, node_of)
    grids, index_of = _in_graph(float_model, result)
    checks = compare_tensors(result.content, graph, decision.reference, grids, index_of, probes)
    check_parity(checks, grids, exempted, table_lsb(float_model, file, grids))
    imprecise = {tensor: reason for tensor, reason in exempted.items() if tensor in checks and checks[tensor].lsb > 1}
    return Built(
        content=result.content,
        graph=graph,
        grids=grids,
        checks=checks,
        kernels={
            key: _kernel_of(graph.layers[key], result.kernel_of[old])
            for old, key in layers_of.items()
            if old in result.kernel_of
        },
        packed=frozenset(
            key
            for old, key in layers_of.items()
            if old in result.kernel_of and written.dtype(result.index_of_kernel[old]) == "int4"
        ),
        float_reasons=result.float_reasons,
        notes=result.adjusted | imprecise,
        requantized=result.requantized,
    )


@dataclass(frozen=True)
class Storage:
    """Size of the file of a model with 4-bit weights.

    Attributes:
        bytes: Size with one weight per byte, as with 8 bits.
        packed_bytes: Size with two 4-bit weights per byte, in layers whose operators can read them.
        weights: Layer -> number of weights in its integer kernel.
        packed: Layers with two weights per byte.
    """

    bytes: int
    packed_bytes: int
    weights: dict[str, int]
    packed: frozenset[str]


def measure_storage(decision: Decision, inputs: Sequence[np.ndarray], packed_about: About | None = None) -> Storage:
    """Size of the file that `build_integer_file` would write for these arguments. The file is not verified.

    Args:
        packed_about: What the file with packed weights says of its making; None: nothing.
    """
    float_model = convert(decision.graph, [array[:1] for array in inputs])
    spec = _spec(decision, float_model, inputs)
    unpacked, packed = (
        quantize_file(float_model.file, dataclasses.replace(spec, int4=int4, about=about))
        for int4, about in ((False, decision.about), (True, packed_about))
    )
    file, weights, packed_layers = File.parse(packed.content), {}, set()
    for old, key in float_model.layer_of.items():
        if old in packed.kernel_of:
            weights[key] = weights.get(key, 0) + packed.kernel_of[old].values.size
            if file.dtype(packed.index_of_kernel[old]) == "int4":
                packed_layers.add(key)
    return Storage(len(unpacked.content), len(packed.content), weights, frozenset(packed_layers))


def _spec(decision: Decision, float_model: FloatModel, inputs: Sequence[np.ndarray]) -> Spec:
    """How to quantize the float file of the graph."""
    graph, file, options = decision.graph, float_model.file, decision.options
    known = decision.file_ranges or {}
    assert options.edge_dtype is not None, "Quantize sets it where the user does not"
    ranges = {index: known[name] for index in range(len(file.tensors)) if (name := file.name(index)) in known}
    ranges |= {
        index: decision.ranges[tensor] for tensor, index in float_model.tensor_of.items() if tensor in decision.ranges
    }
    spec = Spec(
        ranges,
        _file_kernels(file, float_model.layer_of, decision.kernels),
        {index: tensor for tensor, index in float_model.tensor_of.items()},
        activation_bits=options.activation_bits,
        tensor_bits=_ruled_bits(decision.placement, float_model),
        float_rules=_float_rules(decision.placement, float_model, file),
        kernel_bits=options.weight_bits,
        per_channel=options.one_step_per_channel(dense=False),
        dense_per_channel=options.one_step_per_channel(dense=True),
        input_grid=decision.target.input_grid,
        int4=bool(options.int4),
        edge_dtype=options.edge_dtype,
        input_names=tuple(graph.inputs),
        output_names=tuple(graph.output_names),
        about=decision.about,
    )
    missing = _measure(file, tensors_without_grid(file, spec), inputs)
    return dataclasses.replace(spec, ranges=ranges | missing)


def _file_kernels(
    file: File, layers_of: Mapping[int, str], kernels: Mapping[str, IntegerKernel]
) -> dict[int, Constant]:
    """Weight tensor of the file -> its integers in `kernels`, in the file's order of axes."""
    return {
        index: Constant(*kernels[key].tflite(file.known_constant(index).shape))
        for index, key in layers_of.items()
        if key in kernels
    }


def _kernel_of(layer: Layer, constant: Constant) -> IntegerKernel:
    return IntegerKernel.from_tflite(layer, constant.values, constant.quantizer)


def _ruled_bits(placement: Placement, float_model: FloatModel) -> dict[int, int]:
    """{tensor of the file: bits that a rule gives it}."""
    bits_of, outputs = placement.ruled_bits, {node.name: node.outputs for node in placement.graph.nodes}
    inside = {
        index: bits_of[outputs[name][0]] for index, name in float_model.node_of.items() if outputs[name][0] in bits_of
    }
    return inside | {float_model.tensor_of[t]: bits for t, bits in bits_of.items() if t in float_model.tensor_of}


def _float_rules(placement: Placement, float_model: FloatModel, file: File) -> dict[int, str]:
    """{tensor of the file: why a rule keeps the operator that writes it in float}."""
    by_node, reasons = placement.float_nodes, {}
    by_layer = {node.layer: by_node[node.name] for node in placement.graph.nodes if node.name in by_node}
    for operator in file.operators if by_node else ():
        rule = OPERATORS.get(file.operator_name(operator))
        kernel = None if rule is None or rule.kernel is None else int(operator.inputs[rule.kernel])
        layer = "" if kernel is None else float_model.layer_of.get(kernel, "")
        for index in operator.outputs:
            reason = by_node.get(float_model.node_of.get(index, "")) or by_layer.get(layer)
            if reason is not None:
                reasons[index] = reason
    return reasons


def _measure(file: File, tensors: Sequence[int], inputs: Sequence[np.ndarray]) -> dict[int, Range]:
    """Ranges of tensors inside Keras operations that became several operators, by running the float file."""
    found: dict[int, Range] = {}
    for part in _parts(file, tensors):
        # LiteRT's own kernels, as where the file's tensors are compared: the runtime's faster ones round otherwise.
        runner = Runner(_ending_at(file, part), delegate=False)
        for at in range(len(inputs[0])):
            for index, value in zip(part, runner.run([array[at : at + 1] for array in inputs]), strict=True):
                if value.size == 0 or not np.isfinite(value).all():
                    continue
                low, high = float(value.min()), float(value.max())
                before = found.get(index, Range(low, high))
                found[index] = Range(min(low, before.low), max(high, before.high))
    return found


def _parts(file: File, tensors: Sequence[int]) -> Iterator[list[int]]:
    """`tensors` in their order, as many at a time as are held in `_MEASURED_BYTES`."""
    if not tensors:
        return
    part: list[int] = []
    held = 0
    for index in tensors:
        size = 4 * math.prod(file.shape(index))
        if part and held + size > _MEASURED_BYTES:
            yield part
            part, held = [], 0
        part.append(index)
        held += size
    if part:
        yield part


def _ending_at(file: File, tensors: Sequence[int]) -> bytes:
    """The file with these tensors for its outputs, and only the operators that they need."""
    file = file.copy()
    needed, operators = set(tensors), []
    for operator in reversed(file.operators):
        if needed.intersection(operator.outputs):
            needed.update(operator.inputs)
            operators.append(operator)
    file.graph.operators, file.graph.outputs = operators[::-1], list(tensors)
    file.model.signatureDefs = []
    return file.serialize()


def _as_written(
    graph: Graph, float_file: File, file: File, result: IntegerModel, layers_of: Mapping[int, str]
) -> Graph:
    """`graph` with each kernel and bias replaced by the float values of the integers in `file`, that of `result`."""
    graph = graph.copy()
    calls = graph.calls()
    float_biases = _biases(float_file)
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        if rule is None or rule.kernel is None:
            continue
        old = next((o for o, new in result.index_of_kernel.items() if new == operator.inputs[rule.kernel]), None)
        if old is None or old not in layers_of:
            continue
        key = layers_of[old]
        layer = graph.layers[key]
        float_bias = float_biases.get(old) if calls[key] == 1 else None
        graph.layers[key] = _with_file_values(layer, result.kernel_of[old], file, operator, rule, float_bias)
    return graph


def _biases(file: File) -> dict[int, np.ndarray]:
    """Weight tensor -> the constant bias of the operator that multiplies by it."""
    biases = {}
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        if (
            rule is not None
            and rule.kernel is not None
            and rule.bias is not None
            and len(operator.inputs) > rule.bias
            and operator.inputs[rule.bias] >= 0
        ):
            bias = file.constant(operator.inputs[rule.bias])
            if bias is not None:
                biases[int(operator.inputs[rule.kernel])] = bias
    return biases


def _with_file_values(
    layer: Layer, kernel: Constant, file: File, operator, rule, float_bias: np.ndarray | None
) -> Layer:
    layer = with_kernel(layer, _kernel_of(layer, kernel).float_kernel)
    bias = layer.weight("bias")
    # The file holds equal kernels of two layers once. Then the bias may be the other layer's.
    if float_bias is not None and bias is not None and float_bias.shape == bias.shape:
        index = operator.inputs[rule.bias]
        scale = np.asarray(file.tensors[index].quantization.scale, np.float64)
        # Only the rounding error is added, because the converter may have merged a constant that the graph adds later.
        rounding = file.known_constant(index) * scale - float_bias
        layer = layer.with_weights(bias=(bias + rounding).astype(np.float32))
    return layer
