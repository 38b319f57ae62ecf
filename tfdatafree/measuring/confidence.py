"""How sure the range of each tensor is: what tells it besides generated inputs.

Three things tell how large the values of a tensor become on real inputs:

    bound    A function bounds it (softmax, sigmoid, tanh, ReLU6), or its input range is given. Moving, selecting, averaging and
             adding bounded values gives bounded values.
    norm     A normalization tells its mean and deviation: a BatchNorm that reads or writes it stores them, and LayerNorm,
             GroupNorm and their like set them. What computes each value of a tensor from one value of another keeps that.
    norm+k   k layers that mix values lie between the last normalization on each path and the tensor. Each adds some doubt: how
             values go together is that of generated inputs.

Where none of these holds, on one path at least, all that is known was seen on generated inputs:

    generated

A path by way of a bounded tensor to a sum or a product with another tensor counts for nothing: the other one decides.
"""

from collections.abc import Mapping

from tfdatafree.model.batchnorm import is_batchnorm, on_channels
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import find_layout
from tfdatafree.model.network import InputRange
from tfdatafree.model.operations import cap_of, operation_of, rectifier_of

DATA, BOUND, NORM, GENERATED = "data", "bound", "norm", "generated"

_NORMALIZATIONS = ("LayerNormalization", "GroupNormalization", "RMSNormalization", "UnitNormalization")
_JOINED = ("CONCATENATION", "PACK", "MINIMUM", "MAXIMUM")


def normalized_tensors(unfolded: Graph) -> set[str]:
    """The tensors whose means and variances a BatchNorm stores: what it reads, and what it writes."""
    nodes = [node for node in unfolded.nodes if is_batchnorm(unfolded.layer_of(node)) and on_channels(unfolded, node)]
    return {tensor for node in nodes for tensor in (node.inputs[0], *node.outputs)}


def what_tells(graph: Graph, normalized: set[str], ranges: Mapping[str, InputRange]) -> dict[str, str]:
    """Tensor -> "bound", "norm", "norm+1" ... or "generated".

    Args:
        graph: The network, its BatchNorms folded or not.
        normalized: `normalized_tensors` of its unfolded form.
        ranges: Input -> its range.
    """
    bounded = {name for name, found in ranges.items() if found.told}
    depths: dict[str, int | None] = {
        name: 0 if name in normalized or found.divergence is not None else None for name, found in ranges.items()
    }
    for node in graph.nodes:
        sources = [tensor for tensor in node.inputs if tensor not in bounded] or node.inputs
        known = [depth for tensor in sources if (depth := depths[tensor]) is not None]
        depth = max(known, default=0) + _mixes(graph, node) if len(known) == len(sources) else None
        for tensor in node.outputs:
            depths[tensor] = 0 if tensor in normalized or _normalizes(graph, node) else depth
            if _bounds(graph, node) or (_keeps_bounds(graph, node) and bounded.issuperset(node.inputs)):
                bounded.add(tensor)
    return {tensor: BOUND if tensor in bounded else _text(depth) for tensor, depth in depths.items()}


def _text(depth: int | None) -> str:
    if depth is None:
        return GENERATED
    return f"{NORM}+{depth}" if depth else NORM


def _mixes(graph: Graph, node: Node) -> bool:
    """Whether values of the output are computed from several values of an input, in a way that is not only an average."""
    layer = graph.layer_of(node)
    operation = operation_of(layer)
    if is_batchnorm(layer) or operation.values is not None or operation.spatial:
        return False
    one_by_one = operation.channels in ("apart", "joined") or operation.operator in _JOINED
    return find_layout(layer) is not None or not (one_by_one or operation.bounded)


def _normalizes(graph: Graph, node: Node) -> bool:
    """Whether the node gives its result a mean square that does not depend on its input: a layer, or x * rsqrt(f(x))."""
    operation = graph.operation_of(node)
    if type(operation).__name__ in _NORMALIZATIONS:
        return True
    if type(operation).__name__ != "Multiply" or len(node.inputs) != 2:
        return False
    producers = graph.producers()
    for x, factor in (node.inputs, node.inputs[::-1]):
        source = producers.get(factor)
        if source is not None and type(graph.operation_of(source)).__name__ == "Rsqrt":
            return x in _behind(graph, factor)
    return False


def _behind(graph: Graph, tensor: str) -> set[str]:
    """All tensors that `tensor` is computed from."""
    return {read for node in graph.up_to([tensor]).nodes for read in node.inputs}


def _bounds(graph: Graph, node: Node) -> bool:
    operation = graph.operation_of(node)
    rectifier = rectifier_of(operation)
    clips = cap_of(operation) is not None and (rectifier is None or rectifier.is_clip)
    return operation_of(graph.layer_of(node), by_name=True).bounded or clips


def _keeps_bounds(graph: Graph, node: Node) -> bool:
    operation, kind = operation_of(graph.layer_of(node)), type(graph.operation_of(node)).__name__
    moves = operation.values is not None or operation.spatial or operation.operator in _JOINED
    adds = (operation.homogeneous or operation.takes_relu) and kind != "Divide"
    return moves or adds or rectifier_of(graph.operation_of(node)) is not None
