"""Computes a network and many variants of it, each with one part changed, in one walk."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.numerics.affine import Quantizer

# Bytes that the largest tensor of one walk, with all its variants, may take.
_WALK_BYTES = 2**27


@dataclass(frozen=True)
class Variant:
    """The network with one part changed: the layer `name` is `layer`, or the tensor `name` is `change(values, grid)`."""

    name: str
    layer: Layer | None = None
    change: Callable[[np.ndarray, Quantizer], np.ndarray] | None = None
    grid: Quantizer | None = None


def passes(
    graph: Graph,
    variants: Sequence[Variant],
    inputs: Sequence[np.ndarray],
    report: Callable[[str, float], None] = lambda name, part: None,
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Yields (which variants, the graph's outputs (1 + these variants, some of the examples, ...), the original's first).

    Args:
        variants: In the order in which they join.
        report: Called with the current node and the part of the work that is done.
    """
    groups = list(_groups(graph, variants, 0))
    n = len(inputs[0])
    at_once = max(1, min(_WALK_BYTES // max(_largest(graph, variants[some]) for some in groups), n))
    walks = len(groups) * -(-n // at_once)
    done = 0
    for start in range(0, n, at_once):
        arrays = [tf.convert_to_tensor(array[start : start + at_once]) for array in inputs]
        for some in groups:
            walk = _Walk(graph, variants[some], len(arrays[0]), functools.partial(_report_of_all, report, done, walks))
            yield (
                some,
                [
                    values.reshape(1 + len(variants[some]), len(arrays[0]), *values.shape[1:])
                    for values in walk.results(arrays)
                ],
            )
            done += 1


def _report_of_all(report: Callable[[str, float], None], done: int, walks: int, name: str, part: float) -> None:
    """Reports the part of the work that is done, after `done` walks. Later layers have more variants and take longer."""
    report(name, (done + part**2) / walks)


def _groups(graph: Graph, variants: Sequence[Variant], start: int) -> Iterator[slice]:
    """Splits the variants into groups. One example of each group can walk within the memory limit."""
    if len(variants) > 1 and _largest(graph, variants) > _WALK_BYTES:
        middle = len(variants) // 2
        yield from _groups(graph, variants[:middle], start)
        yield from _groups(graph, variants[middle:], start + middle)
    else:
        yield slice(start, start + len(variants))


def _largest(graph: Graph, variants: Sequence[Variant]) -> int:
    """Bytes of the largest tensor of one example, with the rows of the variants that have joined by then."""
    joining: dict[str, int] = {}
    for variant in variants:
        joining[variant.name] = joining.get(variant.name, 0) + 1
    rows, largest = 1 + sum(joining.pop(tensor, 0) for tensor in graph.inputs), 4
    for node in graph.nodes:
        rows += joining.pop(node.layer, 0) + sum(joining.pop(tensor, 0) for tensor in node.outputs)
        for tensor in node.outputs:
            largest = max(largest, 4 * rows * math.prod(length or 1 for length in graph.specs[tensor].shape[1:]))
    return largest


class _Walk:
    """One pass of `count` examples; tensors have (1 + variants) * count rows, the original's first."""

    def __init__(self, graph: Graph, variants: Sequence[Variant], count: int, report: Callable[[str, float], None]):
        self.graph, self.count, self.report = graph, count, report
        self.layers = {variant.name: variant.layer for variant in variants if variant.layer is not None}
        self.tensors: dict[str, list[tuple[Callable[[np.ndarray, Quantizer], np.ndarray], Quantizer]]] = {}
        for variant in variants:
            if variant.layer is None:
                assert variant.change is not None and variant.grid is not None, "a variant changes a layer or a tensor"
                self.tensors.setdefault(variant.name, []).append((variant.change, variant.grid))
        self.changed_graph = graph.copy()
        self.changed_graph.layers |= self.layers
        self.joined = 0
        self.row_of: dict[str, int] = {}  # layer -> place of its variant, counted from 1
        self.variants: dict[str, int] = {}  # tensor -> variants it has rows of
        self.done = 0  # nodes

    def results(self, inputs: Sequence[tf.Tensor]) -> list[np.ndarray]:
        """The graph's outputs, each with the rows of all variants."""
        self.variants.update(dict.fromkeys(self.graph.inputs, 0))
        changed = [self.with_changes(*pair) for pair in zip(self.graph.inputs, inputs, strict=True)]
        live: Mapping[str, Any] = dict(zip(self.graph.inputs, changed, strict=True))
        for _, live in self.graph.walk(changed, self.call):
            pass
        return [np.asarray(self.padded(live[t], self.variants[t], self.joined)) for t in self.graph.outputs]

    def call(self, node: Node, live: Mapping[str, Any]) -> tuple:
        """Computes the node on all rows, with the changed layer on its variant's rows. Then variants of its outputs join."""
        self.report(node.name, self.done / len(self.graph.nodes))
        self.done += 1
        most = max((self.variants[tensor] for tensor in node.inputs), default=0)
        if node.layer in self.layers and node.layer not in self.row_of:
            self.joined += 1
            self.row_of[node.layer] = self.joined
        row = self.row_of.get(node.layer)
        here = {tensor: self.padded(live[tensor], self.variants[tensor], most) for tensor in node.inputs}
        outputs = self.graph.call(node, here)
        if row is not None:
            start = row * self.count if row <= most else 0
            own = {tensor: value[start : start + self.count] for tensor, value in here.items()}
            changed = self.changed_graph.call(node, own)
            outputs = tuple(self.put(o, c, row, most) for o, c in zip(outputs, changed, strict=True))
            most = max(most, row)
        self.variants.update(dict.fromkeys(node.outputs, most))
        return tuple(self.with_changes(*pair) for pair in zip(node.outputs, outputs, strict=True))

    def with_changes(self, tensor: str, values: tf.Tensor) -> tf.Tensor:
        """The tensor with the rows of its own variants, which join here."""
        for change, grid in self.tensors.get(tensor, ()):
            changed = change(np.asarray(values[: self.count]), grid)
            self.joined += 1
            values = self.put(values, tf.cast(changed, values.dtype), self.joined, self.variants[tensor])
            self.variants[tensor] = self.joined
        return values

    def padded(self, values: tf.Tensor, present: int, wanted: int) -> tf.Tensor:
        """The tensor with rows of the original for the variants that it lacks."""
        if present == wanted:
            return values
        return tf.concat([values, *[values[: self.count]] * (wanted - present)], axis=0)

    def put(self, values: tf.Tensor, changed: tf.Tensor, row: int, most: int) -> tf.Tensor:
        """`values` with `changed` as the rows of variant `row`."""
        if row > most:
            return tf.concat([self.padded(values, most, row - 1), changed], axis=0)
        return tf.concat([values[: row * self.count], changed, values[(row + 1) * self.count :]], axis=0)


def up_to_decisions(graph: Graph) -> Graph:
    """The graph up to its results before softmax, with weights as tensors."""
    return graph.up_to(decision_tensors(graph) or graph.outputs).with_tensors()
