"""Cuts a rounded network and its float teacher into pairs of blocks that compute the same.

A block ends where one tensor passes on, rounded if it is rounded at all: behind the join of a residual block, or between two
layers of a chain. Short neighbours in a chain are one block. Where more tensors than one pass on for long, as beside the long
skips of a U-Net, a block ends after a few layers, and several tensors are its outputs.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout
from tfdatafree.model.quantizer_layer import Quantization
from tfdatafree.recovery.outputs import output_pairs

# Layers with kernels that a block of a chain has at most. A residual block may have more.
_LAYERS = 3
# With more of them, a block is cut where several tensors pass on.
_MOST_LAYERS = 8


@dataclass(frozen=True, eq=False)
class Block:
    """A part of the student, and what the teacher computes in its place.

    Attributes:
        student: Nodes of the student; `inputs` and `outputs` are the tensors that pass between blocks.
        teacher: The same part of the teacher, with inputs and outputs in the same order.
        compared: Tensors (of the student, of the teacher) that shall be equal: the outputs, or a result before its softmax.
    """

    student: Graph
    teacher: Graph
    compared: tuple[tuple[str, str], ...]


def find_blocks(student: Graph, teacher: Graph) -> list[Block]:
    """The blocks of the student in order of execution. What follows the last compared results is in none.

    Args:
        student: A separated graph with Quantization layers.
        teacher: The folded float graph, in which tensors have the same names before they are rounded.
    """
    pairing, blocks, begin = _Pairing(student, teacher), list[Block](), 0
    for end in _choose_ends(student, pairing):
        block = pairing.block(begin, end)
        if block is not None:
            blocks.append(block)
            begin = end
    return blocks


class _Pairing:
    """Which tensors of the teacher stand for tensors of the student."""

    def __init__(self, student: Graph, teacher: Graph):
        self.student, self.teacher = student, teacher
        rounded = {
            node.output: node.inputs[0]
            for node in student.nodes
            if isinstance(student.operation_of(node), Quantization)
        }
        self.unrounded = set(rounded.values())
        self.of = {}
        for tensor, spec in student.specs.items():
            before = rounded.get(tensor, tensor)
            if before in teacher.specs and teacher.specs[before].shape[1:] == spec.shape[1:]:
                self.of[tensor] = before
        self.of |= dict(zip(student.outputs, teacher.outputs, strict=True))
        self.passing = _passing(student)
        self.decisions = {pair.student: pair.teacher for pair in output_pairs(student, teacher)}

    def may_end(self, tensors: Collection[str]) -> bool:
        """Whether a block may end where these pass on: the teacher has them all, and none of them is still to be rounded."""
        return all(tensor in self.of and tensor not in self.unrounded for tensor in tensors)

    def block(self, begin: int, end: int) -> Block | None:
        """Nodes `begin` to `end` - 1; None where the teacher needs other inputs than the student."""
        student = self.student
        nodes = student.nodes[begin:end]
        written = {tensor: None for node in nodes for tensor in node.outputs}  # in order
        outputs = [tensor for tensor in written if tensor in self.passing[end - 1]]
        inputs = [t for t in dict.fromkeys(t for node in nodes for t in node.inputs) if t not in written]
        compared = {t: self.of[t] for t in outputs if t not in student.outputs}
        compared |= {t: self.decisions[t] for t in written if t in self.decisions}
        teacher = _between(
            self.teacher,
            [self.of[tensor] for tensor in inputs],
            [self.of[tensor] for tensor in outputs],
            list(compared.values()),
        )
        if teacher is None or not compared:
            return None
        part = dataclasses.replace(
            student.copy(),
            nodes=nodes,
            layers={node.layer: student.layers[node.layer] for node in nodes},
            inputs=inputs,
            outputs=outputs,
        )
        return Block(part, teacher, tuple(compared.items()))


def _choose_ends(student: Graph, pairing: _Pairing) -> list[int]:
    """Ends of blocks, each the index after its last node; the last is the number of nodes."""
    ends, layers, joins = list[int](), 0, False  # of the block that is not finished
    narrow: int | None = None  # the last place where it may end and one tensor passes on
    layers_since, joins_since = 0, False
    for at, node in enumerate(student.nodes):
        kernel = find_layout(student.layer_of(node)) is not None
        layers_since += kernel
        joins_since |= len(set(node.inputs)) > 1
        passing = pairing.passing[at]
        if at + 1 == len(student.nodes) or not pairing.may_end(passing):
            continue
        if len(passing) > 1:
            if layers_since >= _MOST_LAYERS:
                ends.append(at + 1)
                narrow, layers, joins, layers_since, joins_since = None, 0, False, 0, False
            continue
        # From `narrow` to here is a segment: it continues the block, or the block ends before it.
        fits = not joins and not joins_since and layers + layers_since <= _LAYERS
        if narrow is not None and layers and layers_since and not fits:
            ends.append(narrow)
            layers, joins = 0, False
        layers, joins, narrow = layers + layers_since, joins or joins_since, at + 1
        layers_since, joins_since = 0, False
    if narrow is not None and layers and layers_since and not (not joins and layers + layers_since <= _LAYERS):
        ends.append(narrow)
    return [*ends, len(student.nodes)]


def _passing(graph: Graph) -> list[set[str]]:
    """For each node the tensors that exist once it is executed, and that later nodes, or the user, read."""
    last_reads = {tensor: at for at, node in enumerate(graph.nodes) for tensor in node.inputs}
    last_reads |= dict.fromkeys(graph.outputs, len(graph.nodes))
    live, passing = set(graph.inputs), []
    for at, node in enumerate(graph.nodes):
        live = {tensor for tensor in live.union(node.outputs) if last_reads.get(tensor, -1) > at}
        passing.append(live)
    return passing


def _between(graph: Graph, inputs: list[str], outputs: list[str], others: list[str]) -> Graph | None:
    """The nodes that compute `outputs` and `others` of `inputs`; None where these do not suffice."""
    needed, nodes = {*outputs, *others} - set(inputs), []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.difference_update(node.outputs)
            needed.update(tensor for tensor in node.inputs if tensor not in inputs)
            nodes.append(node)
    if needed:
        return None
    part = graph.copy()
    part.nodes, part.inputs, part.outputs = nodes[::-1], list(inputs), list(outputs)
    part.layers = {node.layer: graph.layers[node.layer] for node in nodes}
    return part
