"""Softmaxes whose results the network computes with: attention over positions, soft-argmax.

The shares of n entries are about 1 / n, and the grid that 8-bit kernels have for a softmax has steps of 1 / 256. So a share has
an error of n / 256 / sqrt(12) of its size: 4 % for 32 entries, 20 % for 180. Classes are not concerned: the largest of them
decides, and nothing is computed with the others.
"""

from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.operations import operation_of

# Entries from which on 8 bits are too few.
_MANY = 32


def fine_shares(graph: Graph) -> frozenset[str]:
    """The tensors that softmaxes over many entries read and write, where layers compute with the shares."""
    found: set[str] = set()
    for node in graph.nodes:
        is_softmax = operation_of(graph.layer_of(node)).operator == "SOFTMAX"
        if is_softmax and _entries(graph, node) >= _MANY and _computed_with(graph, node.output):
            found |= {node.inputs[0], node.output}
    return frozenset(found)


def _entries(graph: Graph, node: Node) -> int:
    """How many values share a sum of 1; 0 if this is not known, or along several axes, which is no single operator."""
    axis = getattr(graph.operation_of(node), "axis", -1)
    return graph.specs[node.inputs[0]].shape[axis] or 0 if isinstance(axis, int) else 0


def _computed_with(graph: Graph, tensor: str) -> bool:
    """Whether a layer computes with the values of `tensor`; not where they only move to the model's outputs."""
    readers = graph.consumers()[tensor]
    return any(
        _computed_with(graph, reader.output) if operation_of(graph.layer_of(reader)).values else True
        for reader in readers
    )
