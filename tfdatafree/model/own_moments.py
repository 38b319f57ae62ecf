"""Tensors of which small values matter as much as large ones: the moments by which a network normalizes its own values.

    y = c * rsqrt(v + epsilon)  or  c / (sqrt(v) + epsilon),   v = mean(c * c),   c = x - mean(x)  or  x

An image of a tenth of the contrast has a hundredth of the variance, and y is the same. 8 bits hold a ratio of 1 : 255 between the
smallest and the largest value. That is too little for c, c * c, v, v + epsilon and the inverse root; y itself has one size.
The form is found by its operations, whoever wrote it: a layer that was split, or operations of the user's own.
"""

from collections.abc import Mapping, Sequence

from tfdatafree.model.graph import Graph, Node

# Operations between the squares and the root that keep the ratio of small and large values.
_BETWEEN = ("Add", "Maximum", "Mean", "Sum", "Reshape", "Rescaling")


def own_moments(graph: Graph) -> frozenset[str]:
    """The tensors c, mean(x), c * c, v, v + epsilon and their roots, of every such normalization in `graph`."""
    producers, consumers = graph.producers(), graph.consumers()
    found: set[str] = set()
    for node in graph.nodes:
        name = graph.layer_of(node).class_name
        if name != "Rsqrt" and not (name == "Sqrt" and _divides(graph, consumers, node)):
            continue
        chain, at = [node.output], producers.get(node.inputs[0])
        while at is not None and len(set(at.inputs)) == 1:
            chain.append(at.output)
            if _squares(graph, at):
                found.update(chain)
                found.update(_centred(graph, producers, at.inputs[0]))
                break
            if graph.layer_of(at).class_name not in _BETWEEN:
                break
            at = producers.get(at.inputs[0])
    return frozenset(found)


def _divides(graph: Graph, consumers: Mapping[str, Sequence[Node]], node: Node) -> bool:
    """Whether every reader of what `node` writes divides by it, or by its sum with a constant."""
    readers = consumers[node.output]
    sums = [reader for reader in readers if graph.layer_of(reader).class_name == "Add" and len(reader.inputs) == 1]
    divisions = [
        reader
        for reader in readers
        if graph.layer_of(reader).class_name in ("TrueDivide", "Divide") and reader.inputs[1:] == (node.output,)
    ]
    return (
        bool(readers)
        and len(sums) + len(divisions) == len(readers)
        and all(_divides(graph, consumers, s) for s in sums)
    )


def _squares(graph: Graph, node: Node) -> bool:
    name = graph.layer_of(node).class_name
    return name == "Square" or (name == "Multiply" and len(node.inputs) == 2)


def _centred(graph: Graph, producers: dict[str, Node], tensor: str) -> set[str]:
    """`tensor` and the mean that was subtracted; nothing if it is no such difference."""
    node = producers.get(tensor)
    if node is None or graph.layer_of(node).class_name != "Subtract" or len(node.inputs) != 2:
        return set()
    x, mean = node.inputs
    source = producers.get(mean)
    if source is None or graph.layer_of(source).class_name != "Mean" or source.inputs != (x,):
        return set()
    return {tensor, mean}
