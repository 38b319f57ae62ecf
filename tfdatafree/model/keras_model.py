"""Reads the nodes of a Keras model and of the models nested in it, and copies its operations.

Only this file and the loaders touch the private parts in which Keras keeps the nodes.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.model.layer import Layer, variables_of
from tfdatafree.model.node import Node, Ref, TensorSpec


class ModelReader:
    """The nodes of a Functional or Sequential model and of the models nested in it, with all that a `Graph` has of them.

    Raises:
        UnsupportedModelError: The model is of another kind.
    """

    def __init__(self, model: keras.Model):
        self.nodes: list[Node] = []
        self.layers: dict[str, Layer] = {}
        self.specs: dict[str, TensorSpec] = {}
        self._keys: dict[int, str] = {}
        self._node_names: set[str] = set()
        functional = _functional(model)
        self.inputs = [self._input_name(tensor) for tensor in functional.inputs]
        for name, tensor in zip(self.inputs, functional.inputs, strict=True):
            self.specs[name] = _spec(tensor)
        self.outputs = self._inline(functional, self.inputs)
        self.output_names = _output_names(functional)
        self.input_structure = _unwrap(functional._inputs_struct)
        self.output_structure = _unwrap(functional._outputs_struct)

    def _input_name(self, tensor: Any) -> str:
        name = tensor._keras_history.operation.name
        self._node_names.add(name)
        return name

    def _inline(self, model: Any, input_names: Sequence[str]) -> list[str]:
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
                    outputs = self._inline(inner, _read_tensors(inner, args, kwargs))
                else:
                    outputs = self._append(node, args, kwargs)
                names.update((id(t), name) for t, name in zip(node.output_tensors, outputs, strict=True))
        return [names[id(tensor)] for tensor in model.outputs]

    def _append(self, node: Any, args: tuple, kwargs: dict[str, Any]) -> list[str]:
        operation = node.operation
        if id(operation) not in self._keys:
            key = self._unused(operation.name, self.layers.keys() | self._node_names)
            self._keys[id(operation)] = key
            self.layers[key] = _read_layer(operation)
        key = self._keys[id(operation)]
        name = self._unused(key, self._node_names)
        self._node_names.add(name)
        outputs = [name if i == 0 else f"{name}:{i}" for i in range(len(node.output_tensors))]
        for output, tensor in zip(outputs, node.output_tensors, strict=True):
            self.specs[output] = _spec(tensor)
        self.nodes.append(Node(name, key, args, kwargs, tuple(outputs)))
        return outputs

    def _unused(self, stem: str, taken: Any) -> str:
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
    return Layer(operation, tuple(np.array(np.asarray(variable)) for variable in variables_of(operation)))


def clone(operation: Any, name: str) -> Any:
    """A new operation of this name, with the same config and no weights yet."""
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


def _spec(tensor: Any) -> TensorSpec:
    dtype = "float32" if tensor.dtype in ("float16", "bfloat16") else tensor.dtype
    return TensorSpec(tuple(tensor.shape), dtype)


def _map_leaves(structure: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(structure, (list, tuple)):
        return type(structure)(_map_leaves(item, function) for item in structure)
    if isinstance(structure, Mapping):
        return {key: _map_leaves(item, function) for key, item in structure.items()}
    return function(structure)


def is_input(tensor: Any) -> bool:
    """Whether a symbolic tensor is an input of the model that is being built, and no layer's result."""
    return isinstance(tensor._keras_history.operation, keras.layers.InputLayer)
