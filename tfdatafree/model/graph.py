"""Reads a trained Keras model as a flat list of nodes that can be walked and rewritten, and writes it as a model again.

A `Graph` is read from a `keras.Model` once: nested models are inlined, and arguments that only training uses are dropped. The
passes edit it, and `Graph.to_keras` turns it back into a plain `keras.Model`. Weights are NumPy arrays that the graph holds. So
two graphs, such as the float reference and a compressed network, can share one layer object and compute with different weights.
The model that was read is never changed.

Long because it is the only file, besides the loaders, that touches Keras' private parts: reading and writing need them.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdatafree.activity import report_layer
from tfdatafree.errors import UnsupportedModelError

# Bytes that the largest tensor of one batch may take.
_BATCH_BYTES = 2**26
# Types of inputs that layers compute with as float32, and operations that read an input as indices.
_WIDENED = ("bool", "float64", "int8", "int16", "int32", "int64", "uint16", "uint32")
_INDEXING = ("Embedding", "CategoryEncoding", "IntegerLookup", "Hashing", "Take", "TakeAlongAxis", "OneHot", "MultiHot")
_KERNEL_INITIALIZERS = ("kernel_initializer", "depthwise_initializer")
# Layers whose `call` neither makes a mask nor has a state.
_PLAIN_LAYERS = {
    getattr(keras.layers, name)
    for name in (
        *("Conv1D", "Conv2D", "Conv2DTranspose", "Dense", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv2D"),
        *("Activation", "BatchNormalization", "ELU", "LeakyReLU", "PReLU", "ReLU", "Softmax"),
        *("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"),
        *("AveragePooling1D", "AveragePooling2D", "MaxPooling1D", "MaxPooling2D"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
        *("Cropping2D", "Flatten", "Reshape", "UpSampling2D", "ZeroPadding2D"),
    )
}


@dataclasses.dataclass(frozen=True)
class Ref:
    """Stands for a tensor inside the arguments of a node."""

    tensor: str


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Static shape of a tensor (None where a size is unknown; the first axis is the batch) and the name of its dtype."""

    shape: tuple[int | None, ...]
    dtype: str

    def size(self, axis: int) -> int:
        """The size of one axis. Raises UnsupportedModelError if it is unknown."""
        size = self.shape[axis]
        if size is None:
            raise UnsupportedModelError(
                f"a tensor has the shape {self.shape}, and the size of its axis {axis} is not known; build the model on "
                "inputs of fixed sizes."
            )
        return size

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example, without the batch. Raises UnsupportedModelError if a size is unknown."""
        return tuple(self.size(axis) for axis in range(1, len(self.shape)))


@dataclasses.dataclass(frozen=True)
class Layer:
    """A Keras operation with the weights it computes with.

    Holds for every instance: `weights` have the order and the shapes of `operation.weights`; they are empty for operations of
    `keras.ops`. The operation is a template: it is executed with *these* weights and never called on symbolic tensors, so the
    model that it came from does not change.
    """

    operation: Any
    weights: tuple[np.ndarray, ...] = ()

    @property
    def class_name(self) -> str:
        return type(self.operation).__name__

    def weight(self, name: str) -> np.ndarray | None:
        """The weight whose Keras variable has this name ("kernel", "bias", "gamma" ...), or None."""
        for variable, value in zip(_variables(self.operation), self.weights, strict=True):
            if variable.name == name:
                return value
        return None

    def required_weight(self, name: str) -> np.ndarray:
        """The weight of this name, which every layer of this class has."""
        value = self.weight(name)
        assert value is not None, f"{self.class_name} has a weight of the name {name!r}"
        return value

    def with_weights(self, **named: np.ndarray) -> "Layer":
        """This layer with the named weights replaced. Raises ValueError where a shape differs."""
        values = list(self.weights)
        names = [variable.name for variable in _variables(self.operation)]
        for name, value in named.items():
            index = names.index(name)
            if values[index].shape != np.shape(value):
                raise ValueError(f"{name} of {self.class_name} has shape {values[index].shape}, not {np.shape(value)}.")
            values[index] = np.asarray(value, values[index].dtype)
        return Layer(self.operation, tuple(values))


@dataclasses.dataclass(frozen=True)
class Node:
    """One call of a layer. `args` and `kwargs` hold a `Ref` wherever a tensor goes; `layer` is a key of `layers`."""

    name: str
    layer: str
    args: tuple
    kwargs: Mapping[str, Any]
    outputs: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that this node reads, in argument order."""
        tensors: list[str] = []
        _map_refs((self.args, self.kwargs), lambda ref: tensors.append(ref.tensor))
        return tuple(tensors)

    @property
    def output(self) -> str:
        """The first output, usually the only one."""
        return self.outputs[0]


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
        return _Reader().read(model)

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
            dataclasses.replace(node, args=_map_refs(node.args, swap), kwargs=_map_refs(node.kwargs, swap))
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
        args, kwargs = _map_refs(node.args, fill), _map_refs(node.kwargs, fill)
        return execute(self.layer_of(node), args, kwargs)

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
        operations = {key: _clone(layer.operation, key) for key, layer in self.layers.items()}
        for node in self.nodes:
            fill = lambda ref: tensors[ref.tensor]  # noqa: E731
            result = operations[node.layer](*_map_refs(node.args, fill), **_map_refs(node.kwargs, fill))
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


def execute(layer: Layer, args: tuple, kwargs: Mapping[str, Any]) -> tuple:
    """Calls `layer` with its weights, as at inference, on concrete or traced tensors; returns its outputs as a flat tuple."""
    plain = _is_plain(layer.operation, args, kwargs)
    call = layer.operation.call if plain else layer.operation
    if not plain and knows_training(layer.operation):
        kwargs = {**kwargs, "training": False}  # the default of augmentation layers is True
    if layer.weights:
        pairs = list(zip(_variables(layer.operation), layer.weights, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            result = call(*args, **kwargs)
    else:
        result = call(*args, **kwargs)
    return tuple(keras.tree.flatten(result))


def _is_plain(operation: Any, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Whether Keras has nothing to do around `operation.call`: no conversion, mask, loss or name of a traced operation.

    On small tensors, what it does around most calls takes longer than these.
    """
    return (
        type(operation) in _PLAIN_LAYERS
        and operation.built
        and tf.executing_eagerly()
        and not kwargs
        and operation.dtype_policy.name == "float32"
        and operation.activity_regularizer is None
        and all(
            isinstance(x, tf.Tensor) and x.dtype == tf.float32 and getattr(x, "_keras_mask", None) is None
            for x in (args[0] if isinstance(args[0], list) else args)
        )
    )


def knows_training(operation: Any) -> bool:
    """Whether this operation may compute something else in training than at inference."""
    return isinstance(operation, keras.layers.Layer) and _takes_training(type(operation).call)


@functools.cache
def _takes_training(call: Callable) -> bool:
    return "training" in signature(call).parameters


def new_layer(layer_class: Any, config: Mapping[str, Any], input_shape: tuple, **weights: np.ndarray) -> Layer:
    """A built Keras layer of `layer_class` with the named weights; other weights keep their initial values."""
    # Keras draws a kernel when it builds a layer, which takes longer than all else. Nobody reads what it draws here.
    drawn = {name: config[name] for name in _KERNEL_INITIALIZERS if "kernel" in weights and name in config}
    operation = layer_class.from_config({**_settled(layer_class, config), **dict.fromkeys(drawn, "zeros")})
    operation.build(input_shape)
    for name, initializer in drawn.items():
        setattr(operation, name, keras.initializers.get(initializer))
    initial = Layer(operation, tuple(np.asarray(variable) for variable in operation.weights))
    return initial.with_weights(**weights)


def weightless(layer_class: Any, *args: Any, **config: Any) -> Layer:
    """A new Keras layer of `layer_class`, which has no weights."""
    return Layer(layer_class(*args, **_settled(layer_class, config)))


def _settled(layer_class: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the type and the order of axes of this package, so that no global setting of Keras decides them."""
    constructors = [vars(cls)["__init__"] for cls in layer_class.__mro__ if "__init__" in vars(cls)]
    takes_order = any("data_format" in signature(constructor).parameters for constructor in constructors)
    return {"dtype": "float32", **({"data_format": "channels_last"} if takes_order else {}), **config}


def without_activation(operation: Any) -> Any:
    """`operation` with a linear activation. It shares the variables, which here only give names, shapes and order."""
    linear = object.__new__(type(operation))  # building a new one would allocate and draw all its weights
    linear.__dict__.update(operation.__dict__)
    linear.__dict__["activation"] = keras.activations.linear
    return linear


def _variables(operation: Any) -> list:
    return operation.weights if isinstance(operation, keras.layers.Layer) else []


def _map_refs(structure: Any, function: Callable[[Ref], Any]) -> Any:
    """`structure` with `function` applied to each Ref in nested lists, tuples and mappings."""
    if isinstance(structure, Ref):
        return function(structure)
    if structure is None or isinstance(structure, (str, int, float)):
        return structure
    if isinstance(structure, (list, tuple)):
        return type(structure)(_map_refs(item, function) for item in structure)
    if isinstance(structure, Mapping):
        return {key: _map_refs(item, function) for key, item in structure.items()}
    return structure


def _clone(operation: Any, name: str) -> Any:
    if not isinstance(operation, keras.layers.Layer):
        try:
            clone = type(operation).from_config(operation.get_config())
        except (TypeError, NotImplementedError, ValueError):
            clone = copy.copy(operation)  # an operation without a config has no state either
            clone._inbound_nodes = []
        clone.name = name  # Keras numbers operations, and may arrive at the name of a layer
        return clone
    if isinstance(operation, keras.layers.Lambda):
        config = {"function": operation.function, "arguments": operation.arguments, "name": name}
        config["dtype"] = operation.dtype_policy
        return keras.layers.Lambda(**config, output_shape=getattr(operation, "_output_shape", None))
    return type(operation).from_config({**operation.get_config(), "name": name})


class _Reader:
    """Collects the nodes of a model and of the models nested in it."""

    def __init__(self):
        self.nodes: list[Node] = []
        self.layers: dict[str, Layer] = {}
        self.specs: dict[str, TensorSpec] = {}
        self.keys: dict[int, str] = {}
        self.node_names: set[str] = set()

    def read(self, model: keras.Model) -> Graph:
        functional = _functional(model)
        names = [self.input_name(tensor) for tensor in functional.inputs]
        for name, tensor in zip(names, functional.inputs, strict=True):
            self.specs[name] = _spec(tensor)
        outputs = self.inline(functional, names)
        return _widen_inputs(
            Graph(
                model.name,
                self.nodes,
                self.layers,
                self.specs,
                names,
                outputs,
                _output_names(functional),
                _unwrap(functional._inputs_struct),
                _unwrap(functional._outputs_struct),
            )
        )

    def input_name(self, tensor: Any) -> str:
        name = tensor._keras_history.operation.name
        self.node_names.add(name)
        return name

    def inline(self, model: Any, input_names: Sequence[str]) -> list[str]:
        """Appends the nodes of `model`, fed with `input_names`; returns the names of its outputs."""
        names = {id(tensor): name for tensor, name in zip(model.inputs, input_names, strict=True)}

        def refer(value: Any) -> Any:
            return Ref(names[id(value)]) if isinstance(value, keras.KerasTensor) else value

        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                args = _map_leaves(node.arguments.args, refer)
                kwargs = _map_leaves(node.arguments.kwargs, refer)
                kwargs = {key: value for key, value in kwargs.items() if key not in ("training", "mask")}
                if isinstance(node.operation, keras.Model):
                    inner = _functional(node.operation)
                    outputs = self.inline(inner, _read_tensors(inner, args, kwargs))
                else:
                    outputs = self.append(node, args, kwargs)
                names.update((id(t), name) for t, name in zip(node.output_tensors, outputs, strict=True))
        return [names[id(tensor)] for tensor in model.outputs]

    def append(self, node: Any, args: tuple, kwargs: dict[str, Any]) -> list[str]:
        operation = node.operation
        if id(operation) not in self.keys:
            key = self.unused(operation.name, self.layers.keys() | self.node_names)
            self.keys[id(operation)] = key
            self.layers[key] = _read_layer(operation)
        key = self.keys[id(operation)]
        name = self.unused(key, self.node_names)
        self.node_names.add(name)
        outputs = [name if i == 0 else f"{name}:{i}" for i in range(len(node.output_tensors))]
        for output, tensor in zip(outputs, node.output_tensors, strict=True):
            self.specs[output] = _spec(tensor)
        self.nodes.append(Node(name, key, args, kwargs, tuple(outputs)))
        return outputs

    def unused(self, stem: str, taken: Any) -> str:
        name, count = stem, 0
        while name in taken:
            count += 1
            name = f"{stem}_{count}"
        return name


def _functional(model: Any) -> Any:
    """The Functional model inside `model`. Raises UnsupportedModelError where there is none."""
    if isinstance(model, keras.Sequential):
        if not model.built or model._functional is None:
            raise UnsupportedModelError(
                f"'{model.name}' (Sequential) was never built, so its shapes are unknown; "
                "call model.build((None, height, width, channels)) first."
            )
        return model._functional
    if not hasattr(model, "_nodes_by_depth"):
        raise UnsupportedModelError(
            f"'{model.name}' ({type(model).__name__}) is a subclassed model: its layers cannot be seen from outside; "
            "rebuild it as a Functional or Sequential model."
        )
    return model


def _read_tensors(model: Any, args: tuple, kwargs: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that a call of `model` reads, in the order of `model.inputs`."""
    inputs = args[0] if args else kwargs["inputs"]
    if isinstance(inputs, Mapping) and not isinstance(model._inputs_struct, Mapping):
        inputs = [inputs[tensor.name] for tensor in model.inputs]
    # Keras sorts a dict by its keys.
    return [ref.tensor for ref in keras.tree.flatten(inputs)]


def _output_names(functional: Any) -> list[str]:
    """Names of the outputs as a flat list: the keys of a dict of outputs, or else the names that Keras gives them."""
    structure = functional._outputs_struct
    if isinstance(structure, dict) and all(isinstance(key, str) for key in structure):
        names = {id(tensor): key for key, tensor in structure.items()}
        if all(id(tensor) in names for tensor in functional.outputs) and len(names) == len(functional.outputs):
            return [names[id(tensor)] for tensor in functional.outputs]
    return list(functional.output_names)


def _unwrap(structure: Any) -> Any:
    """The tensor of a list with one: models saved by Keras 2 have such lists, and calling them with an array then warns."""
    return structure[0] if isinstance(structure, (list, tuple)) and len(structure) == 1 else structure


def _read_layer(operation: Any) -> Layer:
    if isinstance(operation, keras.layers.Layer) and operation.compute_dtype in ("float16", "bfloat16"):
        # A mixed-precision model is compressed from its float32 weights.
        weights = [np.asarray(variable, "float32") for variable in operation.weights]
        config = {**operation.get_config(), "dtype": "float32"}
        widened = type(operation).from_config(config)
        build_config = operation.get_build_config()
        if build_config:
            widened.build_from_config(build_config)
        return Layer(widened, tuple(weights))
    return Layer(operation, tuple(np.array(np.asarray(variable)) for variable in _variables(operation)))


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


def _spec(tensor: Any) -> TensorSpec:
    dtype = "float32" if tensor.dtype in ("float16", "bfloat16") else tensor.dtype
    return TensorSpec(tuple(tensor.shape), dtype)


def _map_leaves(structure: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(structure, (list, tuple)):
        return type(structure)(_map_leaves(item, function) for item in structure)
    if isinstance(structure, Mapping):
        return {key: _map_leaves(item, function) for key, item in structure.items()}
    return function(structure)
