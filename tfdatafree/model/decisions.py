"""The tensors that hold a model's results before softmax and the like."""

from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.operations import operation_of, rectifier_of


def decision_tensors(graph: Graph) -> list[str]:
    """The tensors that hold the unbounded results of a separated graph.

    These are its outputs. Where operations at the end only squash results or change their shape, the tensor before them counts
    instead. An output that is bounded in another way has none.
    """
    decisions = [decision_of(graph, tensor) for tensor in graph.outputs]
    return list(dict.fromkeys(decision for decision in decisions if decision is not None))


def decision_of(graph: Graph, output: str) -> str | None:
    """The tensor that holds the unbounded results of one output, as for `decision_tensors`; None if it has none."""
    producers, tensor = graph.producers(), output
    node = producers.get(tensor)
    while node is not None and _passes_on(graph, node):
        tensor = node.inputs[0]
        node = producers.get(tensor)
    return tensor if node is not None and not _is_bounded(graph, node) else None


def _is_bounded(graph: Graph, node: Node) -> bool:
    rectifier = rectifier_of(graph.operation_of(node))
    capped = rectifier is not None and rectifier.cap is not None
    return capped or operation_of(graph.layer_of(node), by_name=True).bounded


def _passes_on(graph: Graph, node: Node) -> bool:
    known = operation_of(graph.layer_of(node), by_name=True)
    return len(node.inputs) == 1 and (known.squashes or known.values in ("same", "reordered"))
