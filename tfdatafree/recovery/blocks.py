"""Cuts a student and its teacher into pairs of blocks, each of which can be executed by itself."""

import dataclasses
from collections.abc import Mapping

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout


def cut_into_blocks(student: Graph, teacher: Graph, pairs: Mapping[str, tuple[str, str]]) -> list[tuple[Graph, Graph]]:
    """Pairs of blocks, (of the student, of the teacher), in order of execution.

    Cuts are where all later nodes read a single tensor, the same in both graphs. Each block holds a layer that is compared.

    Args:
        pairs: Layer node -> (tensor of the student, of the teacher) that are compared.
    """
    counterparts = dict(pairs.values())
    cuts = [tensor for tensor in _bottlenecks(student) if _is_same(tensor, student, teacher, counterparts)]
    teacher_bottlenecks = set(_bottlenecks(teacher))
    blocks, first, inputs = [], 0, student.inputs
    teacher_first, teacher_inputs = 0, teacher.inputs
    boundaries: list[str | None] = [*(cut for cut in cuts if cut in teacher_bottlenecks), None]
    for tensor in boundaries:
        end, teacher_end = (
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
                _part(student, first, end, inputs, tensor),
                _part(teacher, teacher_first, teacher_end, teacher_inputs, tensor),
            )
        )
        first, teacher_first = end, teacher_end
        if tensor is not None:
            inputs = teacher_inputs = [tensor]
    return blocks


def _bottlenecks(graph: Graph) -> list[str]:
    """Tensors that are, once written, the only ones that later nodes read."""
    last_reads = {tensor: at for at, node in enumerate(graph.nodes) for tensor in node.inputs}
    last_reads |= dict.fromkeys(graph.outputs, len(graph.nodes))
    live, bottlenecks = set(graph.inputs), []
    for at, node in enumerate(graph.nodes):
        live |= set(node.outputs)
        live = {tensor for tensor in live if last_reads.get(tensor, -1) > at}
        if len(live) == 1 and live == {node.output}:
            bottlenecks.append(node.output)
    return bottlenecks


def _is_same(tensor: str, student: Graph, teacher: Graph, counterparts: Mapping[str, str]) -> bool:
    """Whether `tensor` is the same in both graphs.

    A convolution's output differs if one graph has a BatchNorm after it and the other has folded it.
    """
    if tensor not in teacher.specs or teacher.specs[tensor].shape[1:] != student.specs[tensor].shape[1:]:
        return False
    has_kernel = find_layout(student.layer_of(student.producers()[tensor])) is not None
    return counterparts.get(tensor) == tensor if has_kernel else True


def _part(graph: Graph, first: int, end: int, inputs: list[str], output: str | None) -> Graph:
    """The nodes first..end - 1 as a graph; `output` None: with the outputs of the graph."""
    nodes = graph.nodes[first:end]
    return dataclasses.replace(
        graph.copy(),
        nodes=list(nodes),
        layers={node.layer: graph.layers[node.layer] for node in nodes},
        inputs=list(inputs),
        outputs=list(graph.outputs) if output is None else [output],
    )
