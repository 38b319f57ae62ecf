"""Reads a trained Keras model as a flat list of nodes that can be walked and rewritten, and writes it as a model again.

A `Graph` is read from a `keras.Model` once: nested models are inlined, and arguments that only training uses are dropped. The
passes edit it, and `Graph.to_keras` turns it back into a plain `keras.Model`. Weights are NumPy arrays that the graph holds. So
two graphs, such as the float reference and a compressed network, can share one layer object and compute with different weights.
The model that was read is never changed.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfdatafree.activity import report_layer
from tfdatafree.model.addition import adds_tensors, sum_of
from tfdatafree.model.keras_model import ModelReader, clone
from tfdatafree.model.layer import Layer, execute
from tfdatafree.model.node import Node, Ref, TensorSpec, map_refs

# Bytes that the largest tensor of one batch may take.
_BATCH_BYTES = 2**26
# Types of inputs that layers compute with as float32, and operations that read an input as indices.
_WIDENED = ("bool", "float64", "int8", "int16", "int32", "int64", "uint16", "uint32")
_INDEXING = ("Embedding", "CategoryEncoding", "IntegerLookup", "Hashing", "Take", "TakeAlongAxis", "OneHot", "MultiHot")


@dataclasses.dataclass
class Graph:
    """Nodes in execution order.

    Holds for every instance: each tensor is written once, before it is read; `specs` has every tensor; node names are unique.
    `inputs` and `outputs` are tensor names in the order of `model.inputs` and `model.outputs`. `output_names` are the keys of a
    dict of outputs, or else the names that Keras gives them.
    """

    name: str
    nodes: list[Node]
    layers: dict[str, Layer]
    specs: dict[str, TensorSpec]
    inputs: list[str]
    outputs: list[str]
    output_names: list[str]
    input_structure: Any = None
    output_structure: Any = None

    # Reading ----------------------------------------------------------------------------------------------------------

    @classmethod
    def from_keras(cls, model: keras.Model) -> "Graph":
        """Reads a Functional or Sequential model. Raises UnsupportedModelError for any other model, ValueError for none."""
        if not isinstance(model, keras.Model):
            raise ValueError(f"the model is a {type(model).__name__}; give a keras.Model.")
        read = ModelReader(model)
        return _widen_inputs(
            cls(
                model.name,
                read.nodes,
                read.layers,
                read.specs,
                read.inputs,
                read.outputs,
                read.output_names,
                read.input_structure,
                read.output_structure,
            )
        )

    def copy(self) -> "Graph":
        """A graph that can be edited without changing this one; arrays and Keras operations are shared."""
        return dataclasses.replace(
            self,
            nodes=list(self.nodes),
            layers=dict(self.layers),
            specs=dict(self.specs),
            inputs=list(self.inputs),
            outputs=list(self.outputs),
        )

    def layer_of(self, node: Node) -> Layer:
        return self.layers[node.layer]

    def operation_of(self, node: Node) -> Any:
        return self.layers[node.layer].operation

    def node(self, name: str) -> Node:
        """The present node of this name: editing a graph replaces nodes."""
        return next(node for node in self.nodes if node.name == name)

    def producers(self) -> dict[str, Node]:
        """Tensor name -> the node that writes it; graph inputs have none."""
        return {tensor: node for node in self.nodes for tensor in node.outputs}

    def consumers(self) -> dict[str, list[Node]]:
        """Tensor name -> nodes that read it, in execution order, each node once; [] for tensors that no node reads."""
        readers: dict[str, list[Node]] = {tensor: [] for tensor in self.specs}
        for node in self.nodes:
            for tensor in dict.fromkeys(node.inputs):
                readers[tensor].append(node)
        return readers

    def calls(self) -> dict[str, int]:
        """Layer key -> number of nodes that call it; a layer with more than one is shared."""
        counts = dict.fromkeys(self.layers, 0)
        for node in self.nodes:
            counts[node.layer] += 1
        return counts

    def first_calls(self) -> dict[str, Node]:
        """Layer key -> the first node that calls it, in execution order."""
        first: dict[str, Node] = {}
        for node in self.nodes:
            first.setdefault(node.layer, node)
        return first

    def up_to(self, tensors: Sequence[str]) -> "Graph":
        """A new graph with the outputs `tensors`, and only the nodes that these need."""
        graph = dataclasses.replace(self.copy(), outputs=list(tensors))
        graph.drop_unread()
        return graph

    def with_tensors(self) -> "Graph":
        """This graph with weights as tensors: where it is executed many times, arrays are not converted each time."""
        graph = self.copy()
        graph.layers = {
            key: Layer(layer.operation, tuple(map(keras.ops.convert_to_tensor, layer.weights)))
            for key, layer in graph.layers.items()
        }
        return graph

    # Editing ----------------------------------------------------------------------------------------------------------

    def fresh_name(self, stem: str) -> str:
        """`stem`, or `stem_1`, `stem_2` ... if a node, layer or tensor already has this name."""
        taken = self.layers.keys() | self.specs.keys() | {node.name for node in self.nodes}
        name, count = stem, 0
        while name in taken:
            count += 1
            name = f"{stem}_{count}"
        return name

    def replace(self, node: Node, *replacements: Node) -> None:
        """Puts `replacements`, if any, in the place of `node`, and drops its layer if no node calls it any more."""
        at = self.nodes.index(node)
        self.nodes[at : at + 1] = replacements
        if not any(other.layer == node.layer for other in self.nodes):
            del self.layers[node.layer]

    def remove(self, node: Node) -> None:
        """Removes `node`; its readers read its first input instead."""
        self.redirect(node.output, node.inputs[0])
        self.replace(node)
        del self.specs[node.output]

    def redirect(self, old: str, new: str) -> None:
        """Makes all nodes that read tensor `old`, and the graph outputs, read `new` instead."""

        def swap(ref: Ref) -> Ref:
            return Ref(new) if ref.tensor == old else ref

        self.nodes = [
            dataclasses.replace(node, args=map_refs(node.args, swap), kwargs=map_refs(node.kwargs, swap))
            if old in node.inputs
            else node
            for node in self.nodes
        ]
        self.outputs = [new if tensor == old else tensor for tensor in self.outputs]

    def rename_output(self, node: Node, tensor: str) -> Node:
        """Makes `node` write `tensor` instead of its own output. The caller removes the node that wrote `tensor` before."""
        renamed = dataclasses.replace(node, outputs=(tensor,))
        self.nodes[self.nodes.index(node)] = renamed
        return renamed

    def drop_unread(self) -> None:
        """Removes nodes whose results no node reads, and the specs of tensors that are no longer written."""
        needed, nodes = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                nodes.append(node)
        self.nodes = nodes[::-1]
        written = set(self.inputs).union(*(node.outputs for node in self.nodes))
        self.specs = {tensor: spec for tensor, spec in self.specs.items() if tensor in written}
        called = {node.layer for node in self.nodes}
        self.layers = {key: layer for key, layer in self.layers.items() if key in called}

    # Executing --------------------------------------------------------------------------------------------------------

    def call(self, node: Node, live: Mapping[str, Any]) -> tuple:
        """Executes one node on the arrays or tensors in `live`; returns its outputs as a flat tuple."""
        fill = lambda ref: live[ref.tensor]  # noqa: E731
        layer = self.layer_of(node)
        if (operands := _summands(layer.operation, node)) is not None:
            total = sum_of(layer.operation, map_refs(operands, fill))
            if total is not None:
                return (total,)
        return execute(layer, map_refs(node.args, fill), map_refs(node.kwargs, fill))

    def walk(
        self,
        inputs: Sequence[Any],
        call: Callable[[Node, Mapping[str, Any]], tuple] | None = None,
    ) -> Iterator[tuple[Node, dict[str, Any]]]:
        """Executes the graph node by node. Only tensors that later nodes still read stay in memory.

        Yields `(node, live)` after each node. `live` maps tensor names to values. It has the node's outputs, which the caller
        may replace before the next step, and those of its inputs that are read again.

        Args:
            inputs: One array per graph input, batch first.
            call: Executes a node instead of `Graph.call`, with the same signature and result.
        """
        call = call or self.call
        live = dict(zip(self.inputs, inputs, strict=True))
        reads = {tensor: len(nodes) for tensor, nodes in self.consumers().items()}
        for tensor in self.outputs:
            reads[tensor] += 1
        for node in self.nodes:
            report_layer(node.name)
            live.update(zip(node.outputs, call(node, live), strict=True))
            for tensor in dict.fromkeys(node.inputs):
                reads[tensor] -= 1
                if reads[tensor] == 0:
                    live.pop(tensor)
            yield node, live
            for tensor in node.outputs:
                if reads[tensor] == 0:
                    live.pop(tensor)

    def predict(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        """The graph's outputs for one batch."""
        live = dict(zip(self.inputs, inputs, strict=True))
        for _, live in self.walk(inputs):
            pass
        return [np.asarray(live[tensor]) for tensor in self.outputs]

    def largest_activation(self) -> int:
        """Bytes that the largest tensor of one example takes as float32."""
        return max(4 * math.prod(size or 1 for size in spec.shape[1:]) for spec in self.specs.values())

    def batch_size(self) -> int:
        """Examples per batch, at least 1, so that no tensor of the batch takes more than 64 MiB."""
        return max(1, _BATCH_BYTES // self.largest_activation())

    def run_in_batches(self, inputs: Sequence[np.ndarray], size: int | None = None) -> list[np.ndarray]:
        """The outputs (n, ...) for inputs (n, ...), `size` examples at a time (None: `batch_size`)."""
        size = size or self.batch_size()
        graph = self.with_tensors() if size < len(inputs[0]) else self
        parts = [
            graph.predict([keras.ops.convert_to_tensor(array[at : at + size]) for array in inputs])
            for at in range(0, len(inputs[0]), size)
        ]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    # Writing ----------------------------------------------------------------------------------------------------------

    def to_keras(self, name: str | None = None) -> keras.Model:
        """A new Functional model with new layers that hold this graph's weights.

        Input names, order and nesting are those of the model that was read. Keras names an output after the layer that writes
        it, so a rewritten graph may have another name there; `output_names` keeps the first one.
        """
        tensors: dict[str, Any] = {}
        for tensor in self.inputs:
            spec = self.specs[tensor]
            tensors[tensor] = keras.Input(batch_shape=spec.shape, dtype=spec.dtype, name=tensor)
        operations = {key: clone(layer.operation, key) for key, layer in self.layers.items()}
        for node in self.nodes:
            fill = lambda ref: tensors[ref.tensor]  # noqa: E731
            result = operations[node.layer](*map_refs(node.args, fill), **map_refs(node.kwargs, fill))
            tensors.update(zip(node.outputs, keras.tree.flatten(result), strict=True))
        for key, layer in self.layers.items():
            if layer.weights:
                operations[key].set_weights(list(layer.weights))
                if isinstance(operations[key], keras.layers.Normalization):
                    operations[key].finalize_state()  # it computes with copies of its weights
        pack = lambda structure, names: keras.tree.pack_sequence_as(structure, [tensors[n] for n in names])  # noqa: E731
        return keras.Model(
            pack(self.input_structure, self.inputs), pack(self.output_structure, self.outputs), name=name or self.name
        )


def _summands(operation: Any, node: Node) -> list | None:
    """The operands of a sum, if all but the first are tensors of the graph; None for any other node."""
    if not adds_tensors(operation) or node.kwargs:
        return None
    operands = list(node.args[0] if isinstance(node.args[0], list | tuple) else node.args)
    return operands if len(operands) > 1 and all(isinstance(x, Ref) for x in operands[1:]) else None


def _widen_inputs(graph: Graph) -> Graph:
    """Gives inputs of integers, truth values and float64 the type float32, in which layers compute with them.

    8-bit images keep their type, and so do indices.
    """
    readers = graph.consumers()
    for tensor in graph.inputs:
        indices = any(graph.layer_of(node).class_name in _INDEXING for node in readers[tensor])
        if not indices and graph.specs[tensor].dtype in _WIDENED:
            graph.specs[tensor] = dataclasses.replace(graph.specs[tensor], dtype="float32")
    return graph
