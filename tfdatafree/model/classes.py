"""Which outputs of a model choose one of several classes, so that their largest entry means something.

These are outputs that end in a softmax over their last axis, at every position. Without one, the logits of a classifier count:
vectors that a convolution or dense layer computes last, perhaps followed by an average over the map. They do not count if another
output ends in a softmax or a sigmoid, because there the model squashes its scores itself.

These have no classes: sigmoids, of which each decides for itself; maps without a softmax; vectors that a normalization, an
activation or arithmetic computes, as embeddings and boxes. A plain dense layer may also be a regressor or an embedding. A graph
cannot tell.
"""

from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import find_layout
from tfdatafree.model.operations import operation_of
from tfdatafree.model.quantizer_layer import Quantization
from tfdatafree.model.saturation import over_channels

_OF_CLASSES = ("SOFTMAX", "LOG_SOFTMAX")


def class_tensors(graph: Graph, tensors: list[str]) -> set[str]:
    """Those of `tensors` whose largest entry along the last axis chooses a class.

    Args:
        graph: A separated graph with its BatchNorms.
        tensors: Outputs, or branches of outputs.
    """
    producers = graph.producers()
    ends = {tensor: _end(graph, producers, tensor) for tensor in tensors if _is_wide(graph, tensor)}
    squashed = any(
        node is not None and operation_of(graph.layer_of(node), by_name=True).squashes for node in ends.values()
    )
    return {
        tensor
        for tensor, node in ends.items()
        if node is not None
        and (_is_softmax(graph, node) or (not squashed and _is_logits(graph, producers, tensor, node)))
    }


def _is_wide(graph: Graph, tensor: str) -> bool:
    shape = graph.specs[tensor].shape
    return len(shape) > 1 and (shape[-1] or 0) > 1 and "float" in graph.specs[tensor].dtype


def _end(graph: Graph, producers: dict[str, Node], tensor: str) -> Node | None:
    """The last node that computes the tensor's values. Operations after it only change the shape before the last axis."""
    node = producers.get(tensor)
    while node is not None and len(node.inputs) == 1 and _keeps(graph, node):
        node = producers.get(node.inputs[0])
    return node


def _keeps(graph: Graph, node: Node) -> bool:
    known = operation_of(graph.layer_of(node))
    before, after = (graph.specs[tensor].shape[-1] for tensor in (node.inputs[0], node.output))
    kept = known.no_op or known.values == "same" or isinstance(graph.operation_of(node), Quantization)
    return kept and before == after


def _is_softmax(graph: Graph, node: Node) -> bool:
    operator = operation_of(graph.layer_of(node), by_name=True).operator
    return operator in _OF_CLASSES and over_channels(graph, node)


def _is_logits(graph: Graph, producers: dict[str, Node], tensor: str, node: Node | None) -> bool:
    if len(graph.specs[tensor].shape) != 2:
        return False
    while node is not None and len(node.inputs) == 1:
        known = operation_of(graph.layer_of(node))
        averages = known.spatial and known.channels == "apart" and known.homogeneous and known.values is None
        if not averages and not _keeps(graph, node):
            break
        node = producers.get(node.inputs[0])
    layout = None if node is None else find_layout(graph.layer_of(node))
    return layout is not None and layout.kind in ("conv", "dense")
