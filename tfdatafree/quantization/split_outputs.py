"""Gives out the branches of an output one by one, each on a grid of its own, in place of the tensor that joins them.

y = M(join(a, b))    ->    the file gives a and b;   y = M(join(a, b)) outside of it, where M only moves values
f(M(join(a, b)))     ->    the file gives f(a) and f(b), for an elementwise f
so that the model's outputs are the same, and no branch is rounded to the step of another.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.joins import branch_names, is_elementwise, joins_branches, moves_values, with_inputs
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.ranges import min_max

# Values at which the range of an elementwise function is taken.
_POINTS = 1001


@dataclass(frozen=True)
class Cut:
    """A graph in two parts, one after the other.

    Attributes:
        graph: Its outputs are the branches, and the outputs that were left alone.
        tail: Joins them to the outputs of the graph that was cut. It moves values, and computes nothing.
        sources: Tensor of `graph` that is new -> (elementwise node that writes it, tensor that it reads).
    """

    graph: Graph
    tail: Graph
    sources: Mapping[str, tuple[Node, str]] = field(default_factory=dict)


def split_outputs(decision: Decision, nodes: Collection[str]) -> Decision:
    """The decision for a file that gives out the branches that `nodes` join, where these lead to outputs.

    Args:
        nodes: Names of nodes that join branches.
    """
    cut = cut_before(decision.graph, nodes)
    if cut is None:
        return decision
    reference = cut_before(decision.reference, nodes)
    assert reference is not None, "both graphs have the same nodes"
    ranges = dict(decision.ranges)
    for tensor, (node, source) in cut.sources.items():
        if source in ranges:
            ranges[tensor] = _through(decision.graph, node, ranges[source])
    return dataclasses.replace(decision, graph=cut.graph, reference=reference.graph, ranges=ranges, tail=cut.tail)


def cut_before(graph: Graph, nodes: Collection[str]) -> Cut | None:
    """The graph, cut before those of `nodes` that lead to its outputs; None if none of them does."""
    cutter = _Cutter(graph, nodes)
    return cutter.cut() if any(map(cutter.holds, graph.outputs)) else None


def joined(graph: Graph, tail: Graph | None) -> Graph:
    """`graph` with `tail` after it, in one graph."""
    if tail is None:
        return graph
    return dataclasses.replace(
        graph,
        nodes=[*graph.nodes, *tail.nodes],
        layers={**graph.layers, **tail.layers},
        specs={**graph.specs, **tail.specs},
        outputs=tail.outputs,
        output_names=tail.output_names,
        output_structure=tail.output_structure,
    )


def leading_to_outputs(graph: Graph, nodes: Collection[str]) -> set[str]:
    """Those of `nodes` whose branches can be given out one by one."""
    return {node for node in nodes if any(map(_Cutter(graph, [node]).holds, graph.outputs))}


def rejoin(graph: Graph, names: Sequence[str]) -> Graph | None:
    """What joins the outputs of a file to those of the model that it was made from.

    Args:
        graph: The separated model.
        names: Of the file's outputs, in their order.

    Returns:
        The tail of the cut that gives outputs with these names; None if there is none.
    """
    nodes: set[str] = set()
    while True:
        cut = cut_before(graph, nodes)
        outputs, found = (
            (graph.outputs, graph.output_names) if cut is None else (cut.graph.outputs, cut.graph.output_names)
        )
        if sorted(found) == sorted(names):
            break
        missing = [_origin(cut, tensor) for tensor, name in zip(outputs, found, strict=True) if name not in names]
        joins = {join for tensor in missing if (join := _last_join(graph, tensor)) is not None} - nodes
        if not joins:
            return None
        nodes |= joins
    if cut is None:
        return None
    tensors = dict(zip(found, outputs, strict=True))
    return dataclasses.replace(cut.tail, inputs=[tensors[name] for name in names])


def _origin(cut: Cut | None, tensor: str) -> str:
    """The tensor of the graph that was cut, of which a tensor of the cut holds functions."""
    while cut is not None and tensor in cut.sources:
        tensor = cut.sources[tensor][1]
    return tensor


def _last_join(graph: Graph, tensor: str) -> str | None:
    """The last node that joins values of the tensor, if it can be cut there."""
    joins = [node.name for node in graph.nodes if joins_branches(graph, node)]
    return next((name for name in reversed(joins) if _Cutter(graph, [name]).holds(tensor)), None)


def decoding(graph: Graph, tail: Graph) -> dict[str, str]:
    """Output of the model that is not one of the file -> NumPy expression that makes it of the file's outputs.

    In the expressions, `y` holds the dequantized outputs by name.
    """
    known = {tensor: f'y["{name}"]' for tensor, name in zip(graph.outputs, graph.output_names, strict=True)}
    expressions = dict(known)
    for node in tail.nodes:
        expressions[node.output] = _expression(tail, node, [expressions[tensor] for tensor in node.inputs])
    pairs = zip(tail.output_names, tail.outputs, strict=True)
    return {name: expressions[tensor] for name, tensor in pairs if tensor not in known}


def _expression(graph: Graph, node: Node, inputs: list[str]) -> str:
    operation, shape = graph.operation_of(node), graph.specs[node.output].shape
    if joins_branches(graph, node):
        function = "concatenate" if graph.layer_of(node).class_name == "Concatenate" else "stack"
        axis = operation.axis if operation.axis < 0 else operation.axis - len(shape)
        return f"np.{function}([{', '.join(inputs)}], axis={axis})"
    if graph.layer_of(node).class_name == "Permute":
        return f"{inputs[0]}.transpose{(0, *operation.dims)}"
    if graph.layer_of(node).class_name == "Transpose":
        return f"{inputs[0]}.transpose({', '.join(map(str, operation.axes or ()))})"
    if shape == graph.specs[node.inputs[0]].shape:
        return inputs[0]
    return f"{inputs[0]}.reshape({', '.join(map(str, (-1, *shape[1:])))})"


def _through(graph: Graph, node: Node, range_: Range) -> Range:
    """Range of what an elementwise function makes of the values in `range_`."""
    points = np.linspace(range_.low, range_.high, _POINTS, dtype=np.float32)[:, None]
    return min_max(np.asarray(graph.call(node, {node.inputs[0]: points})[0]))


class _Cutter:
    def __init__(self, graph: Graph, nodes: Collection[str]):
        self.graph, self.nodes, self.producers = graph.copy(), nodes, graph.producers()
        self.tail: list[Node] = []
        self.tail_specs = {}
        self.branches: list[str] = []
        self.sources: dict[str, tuple[Node, str]] = {}

    def holds(self, tensor: str) -> bool:
        """Whether one of the nodes joins values of the tensor, which nothing computes since."""
        node = self.producers.get(tensor)
        if node is None:
            return False
        if joins_branches(self.graph, node):
            return node.name in self.nodes or any(map(self.holds, node.inputs))
        return (moves_values(self.graph, node) or self.is_function(node)) and self.holds(node.inputs[0])

    def is_function(self, node: Node) -> bool:
        """Whether the node computes the same function of each of its values, in any shape."""
        layer = self.graph.layer_of(node)
        constants = layer.weights or any(hasattr(layer.operation, name) for name in ("scale", "caps", "x_max"))
        return is_elementwise(self.graph, node) and not constants

    def cut(self) -> Cut:
        before = dict(zip(self.graph.outputs, self.graph.output_names, strict=True))
        outputs = [self.outside(tensor, ()) for tensor in self.graph.outputs]
        graph = dataclasses.replace(self.graph, outputs=self.branches, output_structure=list(self.branches))
        kept = set(before.values())
        names = branch_names(graph, self.branches, taken=kept)
        graph.output_names = [before.get(tensor, name) for tensor, name in zip(self.branches, names, strict=True)]
        layers = {node.layer: self.graph.layers[node.layer] for node in self.tail}
        tail = Graph(
            name=graph.name,
            nodes=self.tail,
            layers=layers,
            specs={**{tensor: self.graph.specs[tensor] for tensor in self.branches}, **self.tail_specs},
            inputs=list(self.branches),
            outputs=outputs,
            output_names=list(self.graph.output_names),
            input_structure=list(self.branches),
            output_structure=self.graph.output_structure,
        )
        graph.drop_unread()
        return Cut(graph, tail, self.sources)

    def outside(self, tensor: str, functions: tuple[Node, ...]) -> str:
        """The tensor of the tail that holds `functions` of this tensor."""
        node = self.producers.get(tensor)
        if node is None or not self.holds(tensor):
            branch = self.inside(tensor, functions)
            if branch not in self.branches:
                self.branches.append(branch)
            return branch
        if not joins_branches(self.graph, node) and not moves_values(self.graph, node):
            return self.outside(node.inputs[0], (node, *functions))
        inputs = [self.outside(source, functions) for source in node.inputs]
        name = self.fresh(f"{node.name}_outside")
        self.tail.append(with_inputs(node, inputs, name))
        self.tail_specs[name] = self.graph.specs[tensor]
        return name

    def inside(self, tensor: str, functions: tuple[Node, ...]) -> str:
        """The tensor of the file that holds `functions` of this tensor."""
        for function in functions:
            name = self.fresh(f"{tensor}_{function.name}")
            node = with_inputs(function, [tensor], name)
            self.graph.nodes.append(node)
            self.graph.specs[name] = self.graph.specs[tensor]
            self.sources[name] = node, tensor
            tensor = name
        return tensor

    def fresh(self, stem: str) -> str:
        name, count = self.graph.fresh_name(stem), 0
        while name in self.tail_specs:
            count += 1
            name = self.graph.fresh_name(f"{stem}_{count}")
        return name
