"""Rebuilds a tf_keras (Keras 2) model in Keras 3, layer by layer, from configs and weights.

TFMOT's wrappers are removed. A pruning wrapper becomes its layer with the mask applied, which has exactly the same function.
A quantization wrapper becomes its float layer, which has the same function up to fake-quantization.

tf_keras and TFMOT are imported only to open a Keras 2 file. The import of TFMOT sets TF_USE_LEGACY_KERAS=1 in the process. This
turns a `tf.keras` that was not used before into tf_keras. `import keras` stays Keras 3 in either case, and this package never
uses `tf.keras`. `load_keras2_file` restores the variable.
"""

import contextlib
import inspect
import os
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfdatafree.errors import LoadError, UnsupportedModelError
from tfdatafree.model.keras2_functions import keras_function

_TFMOT = "tensorflow_model_optimization"
_TFMOT_WRAPPERS = {"PruneLowMagnitude", "QuantizeWrapper", "QuantizeWrapperV2", "QuantizeAnnotate"}
TFMOT_CLASSES = _TFMOT_WRAPPERS | {"QuantizeLayer"}

# tf_keras imports any module that a config names, so a file that is not trusted may name only these.
_SAFE_MODULES = re.compile(
    r"(tf_)?keras(\.(layers|models|initializers|regularizers|constraints|activations|mixed_precision|src\.engine|src\.layers)\b.*)?"
    rf"|{_TFMOT}\.python\.core\.(quantization|sparsity)\..*"
)

# Layers of tf_keras that run code, or call a method, that the file names.
_CALLERS = ("Lambda", "__lambda__", "ClassMethod", "InstanceMethod", "InstanceProperty")

# Sizes of the values on which layers of Keras 2 and 3 are compared.
_PROBE_SIZES = (1e-3, 1.0, 1e3, 1e6)


def from_tf_keras(model: Any) -> keras.Model:
    """Returns a Functional Keras 3 model with the function, names ("_" for "/") and weights of the tf_keras `model`.

    Nested, shared, many-input and many-output models keep their structure. Initializers, regularizers and constraints are
    dropped, because they have no effect in a trained model.

    Raises:
        UnsupportedModelError: A layer has no equivalent in Keras 3.
    """
    return _rebuild(model, {})


def load_keras2_file(path: str, config: dict, unsafe: bool, *, name: str | None = None) -> Any:
    """Opens a `.h5` or `.keras` file as a tf_keras model.

    tf_keras has no safe mode for `.h5`, so `config`, the model's config in that file, is checked first.

    Args:
        name: What errors call the file; None: `path`.

    Raises:
        UnsupportedModelError: The file could run code, and `unsafe` is False.
        LoadError: tf_keras cannot load the file, or a package is missing.
    """
    shown = name or path
    for thing in [] if unsafe else serialized_objects(config):
        class_name, module, entries = thing["class_name"], thing.get("module"), thing.get("config")
        called = entries.get("function") if isinstance(entries, dict) else None
        safe = class_name not in _CALLERS and ("OpLambda" not in class_name or keras_function(str(called)) is not None)
        if not safe or not (
            module is None or (module, class_name) == ("builtins", "function") or _SAFE_MODULES.fullmatch(str(module))
        ):
            raise UnsupportedModelError(f"{config_label(thing)} in '{shown}' could run code of its own. {TRUST}")
    legacy = os.environ.get("TF_USE_LEGACY_KERAS")
    try:
        import tf_keras

        with contextlib.ExitStack() as scopes:
            if any(thing["class_name"] in TFMOT_CLASSES for thing in serialized_objects(config)):
                import tensorflow_model_optimization as tfmot

                scopes.enter_context(tfmot.sparsity.keras.prune_scope())
                scopes.enter_context(tfmot.quantization.keras.quantize_scope())
            return tf_keras.models.load_model(path, compile=False, safe_mode=not unsafe)
    except ImportError as error:
        package = str(error.name).replace(_TFMOT, "tensorflow-model-optimization")
        raise LoadError(
            f"'{shown}' is a Keras 2 file that needs the package {package}: pip install {package}"
        ) from error
    except Exception as error:
        raise LoadError(f"Neither Keras 3 nor tf_keras can load '{shown}': {first_line(error)}") from error
    finally:
        if legacy is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = legacy


# Keras writes that objects could not be loaded, an empty line or two, and why.
_REASON_LINES = 4
# Letters of it that are shown. Keras writes whole configs.
_MOST_REASON = 300

TRUST = (
    "Pass unsafe=True (command line: --unsafe_load) only for files that you trust, "
    "or replace it by keras.ops or a registered layer."
)


def serialized_objects(config: Any) -> Iterator[dict]:
    """Yields every serialized object within `config`, outermost first."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for part in config:
            yield from serialized_objects(part)


def drop_unknown_entries(layer_class: type, entries: dict) -> None:
    """Removes from `entries` what no constructor of `layer_class` takes, where its value is None, False or groups=1."""
    for name in set(entries) - _known_entries(layer_class):
        if entries[name] is None or entries[name] is False or (name == "groups" and entries[name] == 1):
            del entries[name]


def _known_entries(layer_class: type) -> set[str]:
    constructors = [vars(cls)["__init__"] for cls in layer_class.__mro__ if "__init__" in vars(cls)]
    return {name for constructor in constructors for name in inspect.signature(constructor).parameters}


def refuse_hard_sigmoid(config: dict) -> None:
    """Raises UnsupportedModelError where a Keras 2 `config` has hard_sigmoid, which Keras 3 defines differently."""
    for thing in serialized_objects(config):
        entries = thing.get("config")
        if isinstance(entries, dict) and entries.get("activation") == "hard_sigmoid":
            raise UnsupportedModelError(
                f"{config_label(thing)} uses hard_sigmoid, which is clip(0.2 x + 0.5, 0, 1) in Keras 2 and "
                "relu6(x + 3) / 6 in Keras 3: write it as ReLU and Rescaling layers instead."
            )


def set_layer_weights(layer: keras.layers.Layer, weights: list[np.ndarray]) -> None:
    """Sets the weights of one layer, and the values that a Normalization layer computes from them."""
    layer.set_weights(weights)
    if hasattr(layer, "finalize_state"):
        layer.finalize_state()


def label(layer: Any) -> str:
    return f"'{layer.name}' ({type(layer).__name__})"


def config_label(thing: dict) -> str:
    entries = thing.get("config")
    name = thing.get("name") or (entries.get("name") if isinstance(entries, dict) else None)
    return f"'{name}' ({thing['class_name']})" if name else f"A {thing['class_name']}"


def first_line(error: Exception) -> str:
    """Returns the line of `error` with the reason; Keras writes whole configs before it."""
    lines = str(error).rpartition("Exception encountered: ")[2].strip().splitlines()
    if lines and "objects could not be loaded" in lines[0]:  # the reason follows the name of an example object
        lines[0] = " ".join(filter(None, (line.strip().strip("'") for line in lines[:_REASON_LINES])))
    return textwrap.shorten(lines[0], _MOST_REASON, placeholder=" ...") if lines else type(error).__name__


def _rebuild(model: Any, twins: dict[int, Any]) -> keras.Model:
    """Rebuilds the graph of `model`; `twins` maps the id of each layer that was met so far to its Keras 3 twin."""
    if not getattr(model, "inputs", None):
        raise UnsupportedModelError(
            f"{label(model)} is not built: call it on data once, or give it an Input as its first layer."
        )
    tensors = {}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input:
                (symbol,) = _flat(node.outputs)
                tensors[id(symbol)] = keras.Input(
                    batch_shape=tuple(symbol.shape), dtype=symbol.dtype.name, name=_keras_3_name(node.layer)
                )
                continue
            args, kwargs = _replace_tensors((list(node.call_args), dict(node.call_kwargs)), tensors)
            for symbol, tensor in zip(
                _flat(node.outputs), _flat(_call_twin(node.layer, args, kwargs, twins)), strict=True
            ):
                tensors[id(symbol)] = tensor
    inputs, outputs = _replace_tensors((model._nested_inputs, model._nested_outputs), tensors)
    return keras.Model(_unwrap(inputs), _unwrap(outputs), name=_keras_3_name(model))


def _call_twin(layer: Any, args: list, kwargs: dict, twins: dict[int, Any]) -> Any:
    """The output of the Keras 3 twin of `layer`, which is made at its first call."""
    kwargs = {name: value for name, value in kwargs.items() if name not in ("name", "training") and value is not None}
    if (class_name := type(layer).__name__) == "QuantizeLayer":
        return args[0]
    if class_name in ("TFOpLambda", "SlicingOpLambda"):
        name = layer.get_config()["function"]
        function = keras_function(name)
        try:
            if function is None:
                raise KeyError(name)
            result = function(*args, **kwargs)
        except Exception as error:  # Keras raises many types for arguments that it does not take
            raise UnsupportedModelError(
                f"{label(layer)} calls tf.{name} in a way that has no equal in Keras 3: use a Keras layer instead."
            ) from error
        made = _flat(result)
        if isinstance(made[0], keras.KerasTensor) and not any(made[0] is given for given in _flat(args)):
            # Keras 3 would call it "multiply", which may be the name of a layer, too. No public function renames it.
            made[0]._keras_history.operation.name = _keras_3_name(layer)
        return result
    if id(layer) not in twins:
        twins[id(layer)] = _rebuild(layer, twins) if hasattr(layer, "layers") else None
    if twins[id(layer)] is None:
        inner, weights = _unwrap_layer(layer)
        try:
            twin = _make_twin(inner)
        except UnsupportedModelError:
            probe = _probe_of(inner, args)
            if _computes_same(inner, lambda values: values, probe):
                return args[0]
            twin = _rough_twin(inner, probe)
            if twin is None:
                raise
        result = twin(*args, **kwargs)
        twins[id(layer)] = twin
        if isinstance(weights, dict):  # quantization wrappers store the kernel outside of its layer, so order is lost
            ordered = [weights.get(w.name, weights.get(f"depthwise_{w.name}")) for w in twin.weights]
            weights = [values for values in ordered if values is not None]
        if len(weights) != len(twin.weights):
            raise UnsupportedModelError(
                f"{label(inner)} has {len(weights)} known weights in Keras 2 and {len(twin.weights)} in Keras 3: "
                "rebuild the model in Keras 3."
            )
        if weights:
            set_layer_weights(twin, weights)
        return result
    if isinstance(twins[id(layer)], keras.Model):
        args = [_unwrap(arg) for arg in args]
    return twins[id(layer)](*args, **kwargs)


def _unwrap_layer(layer: Any) -> tuple[Any, list[np.ndarray] | dict[str, np.ndarray]]:
    """Returns the layer inside TFMOT's wrappers and its weights, in order or (inside a quantizer) by name."""
    class_name = type(layer).__name__
    if class_name == "PruneLowMagnitude":
        masks = {id(weight): mask.numpy() for weight, mask, _ in layer.pruning_vars}
        return layer.layer, [weight.numpy() * masks.get(id(weight), 1) for weight in layer.layer.weights]
    if class_name in ("QuantizeWrapper", "QuantizeWrapperV2"):
        return layer.layer, {weight.name.split("/")[-1].split(":")[0]: weight.numpy() for weight in layer.weights}
    if class_name == "QuantizeAnnotate":
        return _unwrap_layer(layer.layer)
    return layer, layer.get_weights()


def _make_twin(layer: Any) -> keras.layers.Layer:
    """Returns the Keras 3 twin of a tf_keras layer. Its weights are not set yet."""
    custom = keras.saving.get_registered_object(type(layer).__name__)
    layer_class = custom or getattr(keras.layers, type(layer).__name__, None)
    if layer_class is None or (custom is None and not type(layer).__module__.startswith("tf_keras.")):
        advice = (
            "strip it (tfmot.clustering.keras.strip_clustering)"
            if type(layer).__module__.startswith(_TFMOT)
            else "register a Keras 3 layer of the same name (keras.saving.register_keras_serializable(package='', ...))"
        )
        raise UnsupportedModelError(f"{label(layer)} has no equal in Keras 3: {advice} and load the model again.")
    config = layer.get_config()
    if type(layer).__name__ == "Lambda":  # its config has byte code, and the layer has the function itself
        entries = {"arguments": layer.arguments, "dtype": layer.compute_dtype, "name": _keras_3_name(layer)}
        return keras.layers.Lambda(layer.function, **entries)
    if hasattr(layer, "activation") and "activation" in config:
        config["activation"] = _activation(layer.activation)
    refuse_hard_sigmoid({"class_name": type(layer).__name__, "config": config})
    for name in list(config):
        if name.endswith(("_initializer", "_regularizer", "_constraint")) or name in (
            "batch_input_shape",
            "input_shape",
        ):
            del config[name]
        elif name == "axis" and isinstance(config[name], (list, tuple)) and len(config[name]) == 1:
            config[name] = int(config[name][0])
        elif name == "dtype" and isinstance(config[name], dict):
            config[name] = config[name]["config"]["name"]
    drop_unknown_entries(layer_class, config)
    config["name"] = _keras_3_name(layer)
    try:
        return layer_class.from_config(config)
    except Exception as error:
        raise UnsupportedModelError(
            f"{label(layer)} cannot be rebuilt in Keras 3 ({first_line(error)}): use a layer that Keras 3 has."
        ) from error


def _probe_of(layer: Any, args: list) -> np.ndarray | None:
    """Small and large values for the one input of a layer that may act in training only; None for another layer."""
    if layer.weights or "training" not in inspect.signature(layer.call).parameters:
        return None
    if len(args) != 1 or not isinstance(args[0], keras.KerasTensor) or None in args[0].shape[1:]:
        return None
    noise = np.random.default_rng(0).normal(size=(len(_PROBE_SIZES), *args[0].shape[1:]))
    return (noise.T * _PROBE_SIZES).T.astype(args[0].dtype)


def _computes_same(layer: Any, function: Callable, probe: np.ndarray | None) -> bool:
    """Whether a tf_keras layer computes the same as `function` at inference. False for a layer that does not take `probe`."""
    if probe is None:
        return False
    try:
        wanted, found = np.asarray(layer(probe, training=False)), np.asarray(function(probe))
    except Exception:  # of any layer
        return False
    error = np.abs(wanted - found).T / _PROBE_SIZES if wanted.shape == found.shape else np.inf
    return bool(np.all(error < 1e-5))


def _rough_twin(layer: Any, probe: np.ndarray | None) -> keras.layers.Layer | None:
    """The Keras 3 layer from those entries of a tf_keras layer that Keras 3 knows; None where it computes something else."""
    class_name, config = type(layer).__name__, layer.get_config()
    if class_name == "RandomCrop":  # at inference it resizes
        class_name, config = "Resizing", {**config, "crop_to_aspect_ratio": True}
    layer_class = getattr(keras.layers, class_name, None)
    if probe is None or layer_class is None:
        return None
    config = {entry: value for entry, value in config.items() if entry in _known_entries(layer_class)}
    try:
        twin = layer_class.from_config({**config, "name": _keras_3_name(layer)})
    except Exception:  # of any layer
        return None
    return twin if _computes_same(layer, twin, probe) else None


def _keras_3_name(layer: Any) -> str:
    return layer.name.replace("/", "_")  # Keras 3 forbids the slash, and MobileNetV3 of Keras 2 has many


def _activation(activation: Any) -> Any:
    if type(activation).__name__ == "QuantizeAwareActivation":
        activation = activation.activation
    if type(activation).__name__ == "NoOpActivation":
        return "linear"
    if hasattr(activation, "get_config"):  # a layer, such as ReLU(6.0), as the activation
        return _make_twin(activation)
    return getattr(activation, "__name__", activation)


def _flat(structure: Any) -> list:
    if isinstance(structure, dict):
        return list(structure.values())
    return list(structure) if isinstance(structure, (list, tuple)) else [structure]


def _replace_tensors(structure: Any, tensors: dict[int, Any]) -> Any:
    """A copy of nested lists, tuples and dicts, in which each symbolic tensor is replaced by its twin in `tensors`, if any."""
    if isinstance(structure, dict):
        return {name: _replace_tensors(part, tensors) for name, part in structure.items()}
    if isinstance(structure, (list, tuple)):
        parts = [_replace_tensors(part, tensors) for part in structure]
        return tuple(parts) if isinstance(structure, tuple) else parts
    return tensors.get(id(structure), structure)


def _unwrap(structure: Any) -> Any:
    return structure[0] if isinstance(structure, (list, tuple)) and len(structure) == 1 else structure
