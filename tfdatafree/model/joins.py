"""Tensors that hold the values of several branches beside each other, such as the boxes and the scores of a detector.

A node joins its inputs if it carries their values over unchanged (Concatenate, Stack). Operations that only move values, and
elementwise ones, leave each value with its branch. Where values end up follows from numbers that stand for them: they pass
through the same operations, so that any axis and any reshape behind a join is understood.
"""

import functools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tfdatafree.model.graph import Graph, Layer, Node, Ref
from tfdatafree.model.kernels import find_layout, kernel_of
from tfdatafree.model.operations import OPERATIONS, operation_of

# float32 holds every whole number up to this one.
_LARGEST_NUMBER = 2**24


@dataclass(frozen=True, eq=False)
class Part:
    """A branch inside a tensor.

    Attributes:
        tensor: The branch.
        name: What users call it.
        shape: Its shape without the batch.
        places: Where its values are in one flattened example of the tensor, in the branch's order.
    """

    tensor: str
    name: str
    shape: tuple[int, ...]
    places: np.ndarray

    def of(self, values: np.ndarray) -> np.ndarray:
        """The branch (n, *shape) inside `values` (n, ...)."""
        return values.reshape(len(values), -1)[:, self.places].reshape(len(values), *self.shape)


def joins_branches(graph: Graph, node: Node) -> bool:
    """Whether the node carries over the values of several tensors unchanged, beside each other."""
    arguments = node.args[0] if node.args and isinstance(node.args[0], (list, tuple)) else ()
    # A constant among them has no tensor.
    only_tensors = len(arguments) == len(node.inputs) > 1 and all(isinstance(part, Ref) for part in arguments)
    return operation_of(graph.layer_of(node)).joins and only_tensors


def moves_values(graph: Graph, node: Node) -> bool:
    """Whether the node returns all values of its one input, in any order and shape."""
    known = operation_of(graph.layer_of(node))
    return _reads_one(node) and (known.no_op or known.values in ("same", "reordered"))


def is_elementwise(graph: Graph, node: Node) -> bool:
    """Whether each value that the node writes depends on the value at the same place of its one input alone."""
    known = operation_of(graph.layer_of(node))
    same_shape = _reads_one(node) and graph.specs[node.inputs[0]].shape == graph.specs[node.output].shape
    return same_shape and known.channels == "apart" and not known.spatial


def _reads_one(node: Node) -> bool:
    return len(node.inputs) == 1 and bool(node.args) and isinstance(node.args[0], Ref)


def parts_of(graph: Graph, tensor: str) -> tuple[Part, ...]:
    """The branches whose values the tensor holds; () if it does not hold several, or a shape is not static."""
    return _Numbering(graph).parts(tensor)


class _Numbering:
    """Gives each value of each branch a number from 1 on, and finds the numbers again in the tensor that holds them."""

    def __init__(self, graph: Graph):
        self.graph, self.producers = graph, graph.producers()
        self.branches: list[tuple[str, int]] = []  # (tensor, its first number)
        self.next = 1

    def parts(self, tensor: str) -> tuple[Part, ...]:
        graph = self.graph
        if any(None in graph.specs[read].shape[1:] for read in self.region(tensor)):
            return ()
        found = self.numbers(tensor).reshape(-1)
        if len(self.branches) < 2 or self.next > _LARGEST_NUMBER:
            return ()
        order = np.argsort(found, kind="stable")
        names = branch_names(graph, [branch for branch, _ in self.branches])
        parts = []
        for (branch, first), name in zip(self.branches, names, strict=True):
            shape = graph.specs[branch].example_shape
            start = first - 1
            parts.append(Part(branch, name, shape, order[start : start + int(np.prod(shape))]))
        return tuple(parts)

    def region(self, tensor: str) -> set[str]:
        """The tensor, and those that its values come from without being computed."""
        node = self.producers.get(tensor)
        sources = () if node is None or not self.holds(tensor) else node.inputs
        return {tensor}.union(*(self.region(source) for source in sources))

    def holds(self, tensor: str) -> bool:
        """Whether the tensor holds joined branches, perhaps moved or changed value by value since."""
        node = self.producers.get(tensor)
        if node is None or joins_branches(self.graph, node):
            return node is not None
        kept = moves_values(self.graph, node) or is_elementwise(self.graph, node)
        return kept and self.holds(node.inputs[0])

    def numbers(self, tensor: str) -> np.ndarray:
        """The numbers of the tensor's values, (1, *shape)."""
        node = self.producers.get(tensor)
        if node is None or not self.holds(tensor):
            shape = self.graph.specs[tensor].example_shape
            self.branches.append((tensor, self.next))
            numbers = np.arange(self.next, self.next + int(np.prod(shape)), dtype=np.float32)
            self.next += numbers.size
            return numbers.reshape(1, *shape)
        if is_elementwise(self.graph, node) or operation_of(self.graph.layer_of(node)).no_op:
            return self.numbers(node.inputs[0])
        # A tensor that is joined twice counts twice.
        values = {str(at): self.numbers(source) for at, source in enumerate(node.inputs)}
        return np.asarray(self.graph.call(with_inputs(node, list(values), node.name), values)[0])


def with_inputs(node: Node, tensors: Sequence[str], name: str) -> Node:
    """A node that calls the same layer, and that reads `tensors` in place of its inputs, in their order."""
    new = iter(tensors)
    first = [Ref(next(new)) for _ in node.args[0]] if isinstance(node.args[0], (list, tuple)) else Ref(next(new))
    return Node(name, node.layer, (first, *node.args[1:]), node.kwargs, (name,))


def branch_names(graph: Graph, tensors: Sequence[str], *, taken: Collection[str] = ()) -> list[str]:
    """A different name for each: that of the nearest layer that the user named, back to the layer that computes the branch.

    Args:
        taken: Names that others have.
    """
    producers, names = graph.producers(), list[str]()
    for tensor in tensors:
        stem, count = _stem(graph, producers, tensor), 1
        name = stem
        while name in names or name in taken:
            count += 1
            name = f"{stem}_{count}"
        names.append(name)
    return names


def _stem(graph: Graph, producers: dict[str, Node], tensor: str) -> str:
    first, node = None, producers.get(tensor)
    while node is not None:
        before = producers.get(node.inputs[0]) if node.inputs else None
        # The activation of a layer became a node of its own, with a longer name.
        split_off = (
            before is not None and node.name.startswith(f"{before.name}_") and find_layout(graph.layer_of(node)) is None
        )
        if not split_off:
            first = first or node.name
            if not _is_automatic(node.layer):
                return node.name
        if len(node.inputs) != 1 or _computes(graph.layer_of(node)):
            break
        node = before
    return first or tensor


def _computes(layer: Layer) -> bool:
    """Whether the layer has a kernel that does more than to scale channels, which a folded Rescaling does."""
    layout = find_layout(layer)
    return layout is not None and (
        layout.kind != "depthwise" or kernel_of(layer).shape[: layout.rank] != (1,) * layout.rank
    )


def _is_automatic(name: str) -> bool:
    """Whether Keras made the name, which it does from that of a class."""
    return re.sub(r"_\d+$", "", name) in _automatic_names()


@functools.cache
def _automatic_names() -> frozenset[str]:
    classes = (*vars(keras.layers), *OPERATIONS)
    first = (re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name) for name in classes)
    return frozenset(re.sub("([a-z])([A-Z])", r"\1_\2", name).lower() for name in first)
