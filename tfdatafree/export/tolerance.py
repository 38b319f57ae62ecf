"""How far the tensors of a file may differ from their simulation, and which differ by too much."""

import math
from collections.abc import Callable, Container, Mapping, Sequence

from tfdatafree.export.float_model import FloatModel
from tfdatafree.export.inverse_roots import table_error
from tfdatafree.export.verify import TensorCheck
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.operators import OPERATORS

# An operation that integer operators compute worse than this stays in float.
_POOR_DB = 12.0
_SEVERAL = "computed by several integer operators, simulated as one"
_OTHERS = "computed from other tensors than the layer reads: the converter put two operations into one"
_THRESHOLD = "chosen by a comparison, which may fall out otherwise within one integer of its threshold"


def exempt(graph: Graph, float_model: FloatModel, file: File, layers_of: Mapping[int, str]) -> dict[str, str]:
    """Graph tensor -> why its simulation may differ by more than one integer."""
    reasons: dict[str, str] = {}
    matched = set(float_model.tensor_of.values())
    producers, sources = {node.name: node for node in graph.nodes}, _held_sources(file, matched)
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        for index in operator.outputs:
            node = producers.get(float_model.node_of.get(index, ""))
            if node is None:
                continue
            if index not in matched:
                reasons[node.output] = _SEVERAL
            elif rule is not None and rule.kernel is not None and operator.inputs[rule.kernel] not in layers_of:
                reasons[node.output] = "the converter merged another operation into this layer's weights"
            elif None not in (read := {float_model.tensor_of.get(x) for x in node.inputs}) and read != sources(index):
                reasons[node.output] = _OTHERS
    return _with_unmatched_readers(graph, reasons, float_model.tensor_of)


def _held_sources(file: File, held: Container[int]) -> Callable[[int], set[int]]:
    """A function of a tensor that an operator writes: the tensors of `held`, or inputs, that the file computes it from."""
    writers = {index: operator for operator in file.operators for index in operator.outputs}

    def sources(index: int) -> set[int]:
        read = {int(i) for i in writers[index].inputs if i in writers or i in file.inputs}
        return set().union(*({i} if i in held or i not in writers else sources(i) for i in read))

    return sources


def _with_unmatched_readers(graph: Graph, reasons: Mapping[str, str], matched: Container[str]) -> dict[str, str]:
    """`reasons` and those of the nodes that read such a tensor where it is none of the file: they lack the file's values.

    Truth values are such tensors, too: a comparison jumps at its threshold, which the file rounds.

    Args:
        reasons: Tensor -> why its simulation may differ from the file.
        matched: Tensors of the graph that are tensors of the file. Their readers are simulated with the file's values.
    """
    found, unmatched = dict(reasons), set()
    for node in graph.nodes:
        if read := unmatched.intersection(node.inputs):
            is_choice = any(graph.specs[tensor].dtype == "bool" for tensor in read)
            found.setdefault(node.output, _THRESHOLD if is_choice else _SEVERAL)
        is_truth = graph.specs[node.output].dtype == "bool"
        if is_truth or (node.output in found and node.output not in matched):
            unmatched.add(node.output)
    return found


def poor_parts(
    float_model: FloatModel, graph: Graph, checks: Mapping[str, TensorCheck], exempt: Mapping[str, str]
) -> dict[int, str]:
    """{tensor of the float file: why its operator is kept in float}, of operations that integer operators compute badly.

    Only operations that became several operators: nothing else tells how precise these are together.
    """
    found = {tensor: check for tensor, check in checks.items() if tensor in exempt}
    poor = {tensor: check.own_sqnr_db for tensor, check in found.items() if check.own_sqnr_db < _POOR_DB}
    nodes = {node.name: poor[node.output] for node in graph.nodes if node.output in poor}
    return {
        index: f"integer operators would compute '{name}' with {nodes[name]:.1f} dB"
        for index, name in float_model.node_of.items()
        if name in nodes
    }


def table_lsb(float_model: FloatModel, file: File, grids: Mapping[str, Quantizer]) -> dict[str, int]:
    """Graph tensor of an operator with an approximating table or rounded positions -> its largest error in integers (LSB)."""
    names = {index: tensor for tensor, index in float_model.tensor_of.items() if tensor in grids}
    bounds: dict[str, int] = {}
    for operator in file.operators:
        name = file.operator_name(operator)
        rule = OPERATORS.get(name)
        tables = {} if rule is None else rule.table_lsb
        for index in operator.outputs:
            if index not in names or (lsb := tables.get(grids[names[index]].bits)) is None:
                continue
            source = grids.get(names.get(int(operator.inputs[0]), ""))
            if name == "RSQRT" and source is not None and source.bits == 16:
                lsb = table_error(source, grids[names[index]])
            bounds[names[index]] = lsb
        if name == "RESIZE_BILINEAR" and operator.outputs[0] in names:
            before, after = (file.shape(index)[1:3] for index in (operator.inputs[0], operator.outputs[0]))
            resized = names[operator.outputs[0]]
            bounds[resized] = _resize_lsb(before, after, grids[resized].bits)
    return bounds


def _resize_lsb(before: Sequence[int], after: Sequence[int], bits: int) -> int:
    """Largest error, in integers (LSB), of the integer kernel that resizes from `before` to `after` (height, width).

    The kernel computes positions from a ratio with 10 fractional bits. For powers of two the ratio is exact. Otherwise the
    error of the position grows to that of the last pixel, and between two pixels the tensor may change by its whole range.
    """
    one = 1 << 10
    offset = sum(new * abs(round(one * old / new) / one - old / new) for old, new in zip(before, after, strict=True))
    return math.ceil((2**bits - 1) * offset)
