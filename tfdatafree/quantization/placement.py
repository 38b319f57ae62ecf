"""Which tensors of a graph are rounded in the integer file, and which of them share a grid there.

A tensor is rounded where an operator of the file writes it. Inputs of the model have grids of their own. So have the outputs of
layers with weights, Add, Multiply, an average over the map and the like. A ReLU, ReLU6 or scale that the file
fuses into the operator before it is rounded in place of what it reads.
Operators that only move, select or average values (reshape, padding, pooling) keep the grid of their input. Operators that
need one grid for inputs and output (Concatenate, Maximum) share theirs with each operand that no other operator reads,
so that a network simulated at any number of bits is rounded where the file of the same network is.
                       (`model/operations.py` says which operator it is, `tflite/operators.py` what it requires of its tensors,
                       `export/grids.py` reads the grids of a file)
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import keras

from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import find_layout
from tfdatafree.model.operations import operation_of, rectifier_of
from tfdatafree.numerics.affine import Quantizer, activation_quantizer
from tfdatafree.numerics.range import Range, with_room
from tfdatafree.recipe.rules import NO_RULES, LayerRules, Rule
from tfdatafree.tflite.operators import OPERATORS, Fixed, Operator


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a graph is rounded under some rules; each part is computed once, when it is first read.

    Attributes:
        graph: A separated, folded graph.
        rules: What single layers get instead of the recipe's options.
        wide: Tensors that get 16 bits where no rule decides.
    """

    graph: Graph
    rules: LayerRules = NO_RULES
    wide: frozenset[str] = frozenset()

    @functools.cached_property
    def groups(self) -> dict[str, str]:
        """{tensor: the tensor that its group is named after}. A group has one grid. Tensors that are never rounded are absent."""
        return _Grouping(self.graph).groups()

    @functools.cached_property
    def operator_layers(self) -> dict[str, tuple[str, ...]]:
        """{node: its layer and those that the file computes in one operator with it}."""
        fused, producers = _Grouping(self.graph).fused(), self.graph.producers()
        layers_of: dict[str, tuple[str, ...]] = {}
        for node in self.graph.nodes:
            chain = [node]
            while chain[0].inputs and chain[0].inputs[0] in fused and chain[0].inputs[0] in producers:
                chain.insert(0, producers[chain[0].inputs[0]])
            layers = tuple(part.layer for part in chain)
            layers_of.update((part.name, layers) for part in chain)
        return layers_of

    @functools.cached_property
    def rule_of(self) -> dict[str, Rule]:
        """{node: the rule that decides for it}."""
        if not self.rules.rules:
            return {}
        chosen = {node.name: self.rules.first(self.operator_layers[node.name]) for node in self.graph.nodes}
        return {name: rule for name, rule in chosen.items() if rule is not None}

    @functools.cached_property
    def ruled_bits(self) -> dict[str, int]:
        """{tensor: bits that a rule gives it, or 16 for a wide one}."""
        bits = dict.fromkeys(self.wide, 16)
        for node in self.graph.nodes:
            rule = self.rule_of.get(node.name)
            if rule is not None and rule.activation_bits is not None:
                bits |= dict.fromkeys(node.outputs, rule.activation_bits)
        return bits

    @functools.cached_property
    def float_nodes(self) -> dict[str, str]:
        """{node that a rule keeps in float: why}."""
        return {
            name: f"kept in float by rule {rule.pattern!r}" for name, rule in self.rule_of.items() if rule.keep_float
        }

    @property
    def float_layers(self) -> set[str]:
        """Layers that compute in float only. A shared layer keeps its integer weights while one of its calls needs them."""
        nodes = self.graph.nodes
        return {node.layer for node in nodes if node.name in self.float_nodes} - {
            node.layer for node in nodes if node.name not in self.float_nodes
        }

    def grids(self, ranges: Mapping[str, Range], bits: int) -> dict[str, Quantizer]:
        """{tensor: its grid} for every tensor that is rounded and whose range, or built-in grid, is known.

        The grid of a group spans the ranges of all its tensors, and has the most bits that a rule gives to one of them. Grids
        of 16 bits are symmetric, as in a file. Built-in grids (softmax, sigmoid, tanh) cover the same real values at any
        number of bits. Tensors that only layers in float read and write are not rounded.
        """
        graph, spans, built_in = self.graph, dict[str, Range](), dict[str, Quantizer]()
        producers, width = graph.producers(), dict[str, int]()
        for tensor, group in self.groups.items():
            width[group] = max(width.get(group, 0), self.ruled_bits.get(tensor, bits))
        width |= {self.groups[tensor]: bits for tensor in graph.inputs if tensor in self.groups}
        for tensor, group in self.groups.items():
            row = _row(graph, producers[tensor]) if tensor in producers else None
            if row is not None and row.fixed:
                built_in[group] = _built_in(row.fixed, width[group])
            if tensor in ranges:
                span, range_ = spans.get(group, ranges[tensor]), ranges[tensor]
                spans[group] = Range(min(span.low, range_.low), max(span.high, range_.high))
        spans = {group: span if width[group] <= bits else with_room(span) for group, span in spans.items()}
        grids = {
            group: activation_quantizer(span.low, span.high, width[group], symmetric=width[group] == 16)
            for group, span in spans.items()
        } | built_in
        in_float = self._between_floats()
        return {t: grids[group] for t, group in self.groups.items() if group in grids and t not in in_float}

    def _between_floats(self) -> set[str]:
        """Tensors that are written and read in float only."""
        consumers = self.graph.consumers()
        return {
            tensor
            for node in self.graph.nodes
            if node.name in self.float_nodes
            for tensor in node.outputs
            if tensor not in self.graph.outputs and all(reader.name in self.float_nodes for reader in consumers[tensor])
        }


def only_moved(graph: Graph) -> set[str]:
    """Tensors whose values are all values of another tensor with the same grid, so that rounding does not change them."""
    groups, moved = Placement(graph).groups, set()
    for node in graph.nodes:
        if operation_of(graph.layer_of(node)).values is not None and node.inputs:
            group = groups.get(node.inputs[0])
            moved.update(tensor for tensor in node.outputs if group is not None and groups.get(tensor) == group)
    return moved


def has_kernels(graph: Graph, tensor: str, bits: int) -> bool:
    """Whether the operators that write and read the tensor have kernels for that many bits, as far as the table tells."""
    touching = [node for node in graph.nodes if tensor in (*node.inputs, *node.outputs)]
    rows = (_row(graph, node) for node in touching)
    return all(row is None or bits in row.versions for row in rows)


def _built_in(fixed: Mapping[int, Fixed], bits: int) -> Quantizer:
    if bits in fixed:
        return Quantizer(fixed[bits].scale, fixed[bits].zero_point, bits)
    eight_bits = Quantizer(fixed[8].scale, fixed[8].zero_point, 8)
    scale = eight_bits.scale * 2.0 ** (8 - bits)
    lowest = -(2 ** (bits - 1))
    return Quantizer(scale, min(round(lowest - eight_bits.low / scale), -lowest - 1), bits)


def _row(graph: Graph, node: Node) -> Operator | None:
    """What the operator that the converter writes for the node requires of its tensors; None for operators with free grids."""
    name = operation_of(graph.layer_of(node), by_name=True).operator
    return None if name is None else OPERATORS[name]


def _is_fusable_relu(graph: Graph, node: Node) -> bool:
    rectifier = rectifier_of(graph.operation_of(node))
    return rectifier is not None and rectifier.is_clip and rectifier.cap in (None, 6)


class _Grouping:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.readers = {tensor: len(nodes) for tensor, nodes in graph.consumers().items()}
        for tensor in graph.outputs:
            self.readers[tensor] += 1
        self.group_of: dict[str, str] = {}
        self.members: dict[str, list[str]] = {}
        self.built_in: set[str] = set()

    def groups(self) -> dict[str, str]:
        fused = self.fused()
        for tensor in self.graph.inputs:
            self.add(tensor)
        for node in self.graph.nodes:
            for tensor in node.outputs:
                if tensor not in fused:
                    self.add(tensor)
            rule = _row(self.graph, node)
            if rule is not None and node.output in self.group_of:
                self.share(node, rule)
        return self.group_of

    def fused(self) -> set[str]:
        """Tensors between a layer and the ReLU, or the Rescaling, that the file computes in one operator with it."""
        producers, tensors = self.graph.producers(), set()
        for node in self.graph.nodes:
            scales = isinstance(self.graph.operation_of(node), keras.layers.Rescaling)
            if not node.inputs or not (scales or _is_fusable_relu(self.graph, node)):
                continue
            source = node.inputs[0]
            producer = producers.get(source)
            if producer is None or self.readers[source] > 1:
                continue
            layer = self.graph.layer_of(producer)
            if find_layout(layer) is not None or (operation_of(layer).takes_relu and not scales):
                tensors.add(source)
        return tensors

    def add(self, tensor: str) -> None:
        if "float" in self.graph.specs[tensor].dtype:
            self.group_of[tensor] = tensor
            self.members[tensor] = [tensor]

    def share(self, node: Node, rule: Operator) -> None:
        if rule.fixed:
            self.built_in.add(self.group_of[node.output])
        if rule.grid == "own":
            return
        for source in node.inputs if rule.grid == "all" else node.inputs[:1]:
            if source in self.group_of and (rule.grid == "input" or self.may_share(source)):
                for output in node.outputs:
                    self.join(output, source)

    def may_share(self, source: str) -> bool:
        """Whether `source` can take the grid of its reader: no other node reads a tensor of its group."""
        members = self.members[self.group_of[source]]
        free = all(self.readers[tensor] <= 1 and tensor not in self.graph.inputs for tensor in members)
        return free and self.group_of[source] not in self.built_in

    def join(self, tensor: str, source: str) -> None:
        old, new = self.group_of[tensor], self.group_of[source]
        if old == new:
            return
        for member in self.members.pop(old):
            self.group_of[member] = new
            self.members[new].append(member)
        if old in self.built_in:
            self.built_in.add(new)
