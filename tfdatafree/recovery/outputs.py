"""Pairs the results of a student with those of its teacher, before softmax and the like."""

from dataclasses import dataclass

from tfdatafree.model.classes import class_tensors
from tfdatafree.model.decisions import decision_of
from tfdatafree.model.graph import Graph
from tfdatafree.model.quantizer_layer import Quantization


@dataclass(frozen=True)
class OutputPair:
    """One result in both networks.

    Attributes:
        student, teacher: Names of the tensors.
        classes: Number of classes that it chooses from; 0 if it chooses none.
    """

    student: str
    teacher: str
    classes: int


def output_pairs(student: Graph, teacher: Graph) -> list[OutputPair]:
    """The results of both graphs, in the order of their outputs. Where the student rounds a result, it counts as rounded."""
    plain = without_quantizers(student)
    of_classes = class_tensors(teacher, teacher.outputs)
    pairs = []
    for at, output in enumerate(teacher.outputs):
        before, of_teacher = decision_of(plain, plain.outputs[at]), decision_of(teacher, output)
        if before is None or of_teacher is None:
            pairs.append(OutputPair(student.outputs[at], output, 0))
            continue
        classes = teacher.specs[of_teacher].size(-1) if output in of_classes else 0
        pairs.append(OutputPair(as_rounded(student, before), of_teacher, classes))
    return pairs


def without_quantizers(graph: Graph) -> Graph:
    """The graph without its Quantization layers; other tensors keep their names."""
    graph = graph.copy()
    for name in [node.name for node in graph.nodes if isinstance(graph.operation_of(node), Quantization)]:
        graph.remove(graph.node(name))
    return graph


def as_rounded(graph: Graph, tensor: str) -> str:
    """The tensor that holds the values of `tensor` after rounding; `tensor` itself where it is not rounded."""
    readers = graph.consumers()[tensor]
    rounding = [node for node in readers if isinstance(graph.operation_of(node), Quantization)]
    return rounding[0].output if rounding else tensor
