"""Which tensors a simulation of the file cannot tell to one integer."""

from collections.abc import Container, Mapping

from tfdatafree.model.graph import Graph

SEVERAL = "computed by several integer operators, simulated as one"
_THRESHOLD = "chosen by a comparison, which may fall out otherwise within one integer of its threshold"


def with_unmatched_readers(graph: Graph, reasons: Mapping[str, str], matched: Container[str]) -> dict[str, str]:
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
            found.setdefault(node.output, _THRESHOLD if is_choice else SEVERAL)
        is_truth = graph.specs[node.output].dtype == "bool"
        if is_truth or (node.output in found and node.output not in matched):
            unmatched.add(node.output)
    return found
