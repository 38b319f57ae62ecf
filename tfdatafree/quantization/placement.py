"""Which tensors of a network a quantized one rounds, and which of them share a grid: the integer file's rule, on the graph.

A tensor has a grid of its own where an operator of the file writes it: on the inputs; behind a layer with weights, or
behind the ReLU, ReLU6 or scale that the file fuses into it; after Add, Multiply, averages over the map, Concatenate ...
Operators that only move, select or average on the grid that came in (reshape, padding, pooling) keep it; those that want
one grid on both sides (Concatenate, Maximum) share theirs with every operand that nobody else reads.
so that a network simulated at any number of bits is rounded where the file of the same network is.
                                                    (`tflite/operators.py` holds the rows, `export/grids.py` the file's side)
"""

from collections.abc import Mapping

import keras

from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import layout_of
from tfdatafree.numerics.affine import Quantizer, activation_quantizer
from tfdatafree.numerics.range import Range, with_room
from tfdatafree.recipe.rules import NO_RULES, LayerRules
from tfdatafree.tflite.operators import OPERATORS, Operator

# Keras class, or name of a function where the class is Activation -> the operator that the converter writes for it.
# What is not listed has a free grid and kernels of 8 and of 16 bits.
_OPERATOR = {
    "MaxPooling1D": "MAX_POOL_2D",
    "MaxPooling2D": "MAX_POOL_2D",
    "AveragePooling1D": "AVERAGE_POOL_2D",
    "AveragePooling2D": "AVERAGE_POOL_2D",
    "GlobalMaxPooling1D": "REDUCE_MAX",
    "GlobalMaxPooling2D": "REDUCE_MAX",
    "Reshape": "RESHAPE",
    "Flatten": "RESHAPE",
    "RepeatVector": "TILE",
    "Squeeze": "RESHAPE",
    "ExpandDims": "RESHAPE",
    "Permute": "TRANSPOSE",
    "Transpose": "TRANSPOSE",
    "Identity": "RESHAPE",
    "ZeroPadding1D": "PAD",
    "ZeroPadding2D": "PAD",
    "Pad": "PAD",
    "Cropping1D": "STRIDED_SLICE",
    "Cropping2D": "STRIDED_SLICE",
    "GetItem": "STRIDED_SLICE",
    "Slice": "SLICE",
    "Split": "SPLIT",
    "UpSampling1D": "RESIZE_NEAREST_NEIGHBOR",
    "UpSampling2D": "RESIZE_NEAREST_NEIGHBOR",
    "Concatenate": "CONCATENATION",
    "Stack": "PACK",
    "Maximum": "MAXIMUM",
    "Minimum": "MINIMUM",
    "ChannelCap": "MINIMUM",
    "PReLU": "PRELU",
    "ELU": "ELU",
    "elu": "ELU",
    "hard_silu": "HARD_SWISH",
    "Softmax": "SOFTMAX",
    "softmax": "SOFTMAX",
    "Sigmoid": "LOGISTIC",
    "sigmoid": "LOGISTIC",
    "Tanh": "TANH",
    "tanh": "TANH",
    "LogSoftmax": "LOG_SOFTMAX",
    "log_softmax": "LOG_SOFTMAX",
}
# Operations besides layers with weights whose operator takes over the ReLU behind it.
_FUSES = ("Add", "Subtract", "Multiply", "Divide", "Rescaling")
# Operators whose output holds values of their input and nothing new.
_MOVE = frozenset(
    "MAX_POOL_2D REDUCE_MAX RESHAPE TILE TRANSPOSE PAD STRIDED_SLICE SLICE SPLIT RESIZE_NEAREST_NEIGHBOR".split()
)


def place_grids(graph: Graph) -> dict[str, str]:
    """{tensor: the tensor that names its group}: each group is one grid; a tensor that is never rounded is absent.

    Args:
        graph: A separated, folded graph.
    """
    return _Placement(graph).groups()


def simulated_grids(
    graph: Graph, ranges: Mapping[str, Range], bits: int, rules: LayerRules = NO_RULES
) -> dict[str, Quantizer]:
    """{tensor: its grid} for every tensor that is rounded and whose range, or built-in grid, is known.

    A group's grid spans the ranges of all its tensors and has the most bits that a rule gives to one of them. 16 bits are
    symmetric, as in a file; built-in grids (softmax, sigmoid, tanh) cover the same reals at any number of bits. Tensors
    that only layers in float read and write are not rounded.
    """
    placed, spans, built_in = place_grids(graph), {}, {}
    producers, ruled = graph.producers(), ruled_bits(graph, rules)
    width: dict[str, int] = {}
    for tensor, group in placed.items():
        width[group] = max(width.get(group, 0), ruled.get(tensor, bits))
    width |= {placed[tensor]: bits for tensor in graph.inputs if tensor in placed}
    for tensor, group in placed.items():
        rule = _rule(graph, producers[tensor]) if tensor in producers else None
        if rule is not None and rule.fixed:
            built_in[group] = _built_in(rule, width[group])
        if tensor in ranges:
            known, given = spans.get(group, ranges[tensor]), ranges[tensor]
            spans[group] = Range(min(known.low, given.low), max(known.high, given.high))
    spans = {group: span if width[group] <= bits else with_room(span) for group, span in spans.items()}
    grids = {
        group: activation_quantizer(span.low, span.high, width[group], symmetric=width[group] == 16)
        for group, span in spans.items()
    } | built_in
    apart = _between_floats(graph, float_nodes(graph, rules))
    return {tensor: grids[group] for tensor, group in placed.items() if group in grids and tensor not in apart}


def operator_layers(graph: Graph) -> dict[str, tuple[str, ...]]:
    """{node: layers that the file computes in one operator with it, its own among them}."""
    fused, producers = _Placement(graph).fused(), graph.producers()
    found: dict[str, tuple[str, ...]] = {}
    for node in graph.nodes:
        chain = [node]
        while chain[0].inputs and chain[0].inputs[0] in fused and chain[0].inputs[0] in producers:
            chain.insert(0, producers[chain[0].inputs[0]])
        layers = tuple(part.layer for part in chain)
        found.update((part.name, layers) for part in chain)
    return found


def ruled_bits(graph: Graph, rules: LayerRules) -> dict[str, int]:
    """{tensor: bits that a rule gives it}."""
    found: dict[str, int] = {}
    if rules.rules:
        layers_of = operator_layers(graph)
        for node in graph.nodes:
            rule = rules.first(layers_of[node.name])
            if rule is not None and rule.activation_bits is not None:
                found |= dict.fromkeys(node.outputs, rule.activation_bits)
    return found


def float_nodes(graph: Graph, rules: LayerRules) -> dict[str, str]:
    """{node that a rule keeps in float: why}."""
    if not rules.rules:
        return {}
    layers_of = operator_layers(graph)
    chosen = {node.name: rules.first(layers_of[node.name]) for node in graph.nodes}
    return {
        name: f"kept in float by rule {rule.pattern!r}"
        for name, rule in chosen.items()
        if rule is not None and rule.keep_float
    }


def layers_in_float(graph: Graph, rules: LayerRules) -> set[str]:
    """Layers that compute in float only; one that is shared keeps its integers while a call of it needs them."""
    floats = float_nodes(graph, rules)
    return {node.layer for node in graph.nodes if node.name in floats} - {
        node.layer for node in graph.nodes if node.name not in floats
    }


def only_moved(graph: Graph) -> set[str]:
    """Tensors that hold values of another tensor of the same grid, so that they are on it already."""
    placed, found = place_grids(graph), set()
    for node in graph.nodes:
        if _operator_name(graph, node) in _MOVE and node.inputs:
            group = placed.get(node.inputs[0])
            found.update(tensor for tensor in node.outputs if group is not None and placed.get(tensor) == group)
    return found


def has_kernels(graph: Graph, tensor: str, bits: int) -> bool:
    """Whether the operators that write and read the tensor have kernels of that width, as far as their classes tell."""
    touching = [node for node in graph.nodes if tensor in (*node.inputs, *node.outputs)]
    rows = (_rule(graph, node) for node in touching)
    return all(row is None or bits in row.versions for row in rows)


def _between_floats(graph: Graph, floats: Mapping[str, str]) -> set[str]:
    """Tensors that are written and read in float only."""
    consumers = graph.consumers()
    return {
        tensor
        for node in graph.nodes
        if node.name in floats
        for tensor in node.outputs
        if tensor not in graph.outputs and all(reader.name in floats for reader in consumers[tensor])
    }


def _built_in(rule: Operator, bits: int) -> Quantizer:
    if bits in rule.fixed:
        return Quantizer(rule.fixed[bits].scale, rule.fixed[bits].zero_point, bits)
    whole = Quantizer(rule.fixed[8].scale, rule.fixed[8].zero_point, 8)
    scale = whole.scale * 2.0 ** (8 - bits)
    lowest = -(2 ** (bits - 1))
    return Quantizer(scale, min(round(lowest - whole.low / scale), -lowest - 1), bits)


def _rule(graph: Graph, node: Node) -> Operator | None:
    name = _operator_name(graph, node)
    return None if name is None else OPERATORS[name]


def _operator_name(graph: Graph, node: Node) -> str | None:
    """Name of the operator that the converter writes for the node, where it is listed."""
    operation = graph.operation_of(node)
    name = type(operation).__name__
    if isinstance(operation, keras.layers.Activation):
        name = getattr(operation.activation, "__name__", "")
    return _OPERATOR.get(name)


def _is_fusable_relu(graph: Graph, node: Node) -> bool:
    operation = graph.operation_of(node)
    if isinstance(operation, keras.layers.ReLU):
        return operation.max_value in (None, 6) and not operation.threshold and not operation.negative_slope
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in (keras.activations.relu, keras.activations.relu6)
    return type(operation).__name__ in ("Relu", "Relu6")


class _Placement:
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
            rule = _rule(self.graph, node)
            if rule is not None and node.output in self.group_of:
                self.share(node, rule)
        return self.group_of

    def fused(self) -> set[str]:
        """Tensors between a layer and the ReLU, or the scale and shift, that the file computes with it."""
        producers, found = self.graph.producers(), set()
        for node in self.graph.nodes:
            scales = isinstance(self.graph.operation_of(node), keras.layers.Rescaling)
            if not node.inputs or not (scales or _is_fusable_relu(self.graph, node)):
                continue
            source = node.inputs[0]
            producer = producers.get(source)
            if producer is None or self.readers[source] > 1:
                continue
            layer = self.graph.layer_of(producer)
            if layout_of(layer) is not None or (layer.class_name in _FUSES and not scales):
                found.add(source)
        return found

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
        """Whether the source can take the grid of what reads it without another reader noticing."""
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
