"""A student and its teacher cut into blocks, each of which can be executed by itself."""

import dataclasses
from collections.abc import Mapping

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import layout_of


def cut_into_blocks(student: Graph, teacher: Graph, pairs: Mapping[str, tuple[str, str]]) -> list[tuple[Graph, Graph]]:
    """Both graphs cut where one tensor alone passes on, the same in both; each block holds a layer that is compared."""
    of_teacher = dict(pairs.values())
    cuts = [tensor for tensor in _bottlenecks(student) if _same(tensor, student, teacher, of_teacher)]
    theirs = set(_bottlenecks(teacher))
    blocks, first, begun = [], 0, student.inputs
    their_first, their_begun = 0, teacher.inputs
    for tensor in [cut for cut in cuts if cut in theirs] + [None]:
        end, their_end = (
            len(graph.nodes)
            if tensor is None
            else 1 + next(i for i, n in enumerate(graph.nodes) if tensor in n.outputs)
            for graph in (student, teacher)
        )
        compared = any(node.name in pairs for node in student.nodes[first:end])
        if tensor is not None and (not compared or not any(node.name in pairs for node in student.nodes[end:])):
            continue
        blocks.append(
            (
                _part(student, first, end, begun, tensor),
                _part(teacher, their_first, their_end, their_begun, tensor),
            )
        )
        first, their_first = end, their_end
        begun = their_begun = [tensor]
    return blocks


def _bottlenecks(graph: Graph) -> list[str]:
    """Tensors that, once written, are all that is still to be read."""
    last = {tensor: at for at, node in enumerate(graph.nodes) for tensor in node.inputs}
    last |= dict.fromkeys(graph.outputs, len(graph.nodes))
    live, found = set(graph.inputs), []
    for at, node in enumerate(graph.nodes):
        live |= set(node.outputs)
        live = {tensor for tensor in live if last.get(tensor, -1) > at}
        if len(live) == 1 and live == {node.output}:
            found.append(node.output)
    return found


def _same(tensor: str, student: Graph, teacher: Graph, of_teacher: Mapping[str, str]) -> bool:
    """Whether `tensor` means the same in both: a convolution's output is before or behind its BatchNorm."""
    if tensor not in teacher.specs or teacher.specs[tensor].shape[1:] != student.specs[tensor].shape[1:]:
        return False
    weighted = layout_of(student.layer_of(student.producers()[tensor])) is not None
    return of_teacher.get(tensor) == tensor if weighted else True


def _part(graph: Graph, first: int, end: int, inputs: list[str], output: str | None) -> Graph:
    nodes = graph.nodes[first:end]
    return dataclasses.replace(
        graph.copy(),
        nodes=list(nodes),
        layers={node.layer: graph.layers[node.layer] for node in nodes},
        inputs=list(inputs),
        outputs=list(graph.outputs) if output is None else [output],
    )
