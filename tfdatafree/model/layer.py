"""A Keras operation with the weights that it computes with: how one is made and called.

Weights are NumPy arrays that the `Layer` holds. So two layers can share one operation and compute with different weights.
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Names that TensorFlow takes for scopes and nodes.
_SCOPE_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_./-]*")
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


@dataclass(frozen=True)
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
        for variable, value in zip(variables_of(self.operation), self.weights, strict=True):
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
        names = [variable.name for variable in variables_of(self.operation)]
        for name, value in named.items():
            index = names.index(name)
            if values[index].shape != np.shape(value):
                raise ValueError(f"{name} of {self.class_name} has shape {values[index].shape}, not {np.shape(value)}.")
            values[index] = np.asarray(value, values[index].dtype)
        return Layer(self.operation, tuple(values))


def execute(layer: Layer, args: tuple, kwargs: Mapping[str, Any]) -> tuple:
    """Calls `layer` with its weights, as at inference, on concrete or traced tensors; returns its outputs as a flat tuple."""
    plain = _is_plain(layer.operation, args, kwargs)
    call = layer.operation.call if plain else _with_scope_name(layer.operation)
    if not plain and knows_training(layer.operation):
        kwargs = {**kwargs, "training": False}  # the default of augmentation layers is True
    if layer.weights:
        pairs = list(zip(variables_of(layer.operation), layer.weights, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            result = call(*args, **kwargs)
    else:
        result = call(*args, **kwargs)
    return tuple(keras.tree.flatten(result))


def scope_name(name: str) -> str:
    """`name` as TensorFlow takes it for scopes and nodes: the same, or with _ for every character that it refuses."""
    if _SCOPE_NAME.fullmatch(name):
        return name
    return "n" + re.sub(r"[^A-Za-z0-9_./-]", "_", name)


def _with_scope_name(operation: Any) -> Any:
    """`operation`, which TensorFlow can trace under its name; if its name is refused, a copy that shares the variables."""
    name = scope_name(operation.name)
    return operation if name == operation.name else _sharing(operation, name=name)


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
    return _sharing(operation, activation=keras.activations.linear)


def _sharing(operation: Any, **attributes: Any) -> Any:
    """A copy of `operation` with other attributes, and with its variables."""
    other = object.__new__(type(operation))  # building a new one would allocate and draw all its weights
    other.__dict__.update(operation.__dict__)
    other.__dict__.update(attributes)
    return other


def variables_of(operation: Any) -> list:
    return operation.weights if isinstance(operation, keras.layers.Layer) else []
