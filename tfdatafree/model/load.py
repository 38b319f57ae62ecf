"""Turns a user's model or file into a plain Keras 3 model.

It takes `.keras` and `.h5` files, Keras 3 models and tf_keras (Keras 2) models. The result is a built Functional or Sequential
`keras.Model` with static input shapes and finite weights, so that result(x) == source(x) for every x.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from typing import Any

import h5py
import keras
from absl import logging

from tfdatafree.errors import LoadError, UnsupportedModelError
from tfdatafree.files import temporary_folder
from tfdatafree.limits import memory_limit, require_bool
from tfdatafree.model.file_kind import is_newer, keras_file_kind
from tfdatafree.model.keras2_files import (
    has_written_shapes,
    load_keras2_archive,
    refuse_keras1,
    without_unknown_entries,
)
from tfdatafree.model.load_keras2 import (
    TFMOT_CLASSES,
    TRUST,
    config_label,
    first_line,
    from_tf_keras,
    label,
    load_keras2_file,
    refuse_hard_sigmoid,
    serialized_objects,
    set_layer_weights,
)
from tfdatafree.model.sound import require_sound_names, require_sound_weights
from tfdatafree.model.untrusted import (
    archive_values,
    count_values,
    limited_weights,
    read_json,
    read_part,
    require_sound_config,
    require_sound_heaps,
    require_sound_parts,
)

InputShape = tuple[int | None, ...]

_OWN_PACKAGES = ("keras", "tf_keras", "builtins", "tensorflow_model_optimization")


def load(
    source: Any,
    *,
    unsafe: bool = False,
    input_shape: InputShape | Mapping[str, InputShape] | None = None,
) -> keras.Model:
    """Returns `source` as a built Functional or Sequential Keras 3 model with static input shapes.

    A Keras 3 model that is already in this form is returned itself. No given model is ever changed.

    Args:
        source: A `keras.Model`, a `tf_keras` model, or the path of a `.keras`, `.h5` or `.hdf5` file. TFMOT's pruning and
            quantization wrappers are removed: the masks are applied, and fake-quantization is left out.
        unsafe: True lets a file run the Python code in its Lambda layers. Only for files that you trust.
        input_shape: (H, W, C) or (batch, H, W, C), or a dict from input name to such a shape. It replaces sizes of the
            model's inputs that are None. The batch size itself stays free.

    Raises:
        LoadError: The file is missing, damaged or not a Keras model.
        UnsupportedModelError: The model, or a layer that the message names, cannot be compressed.
        ValueError: `input_shape` does not fit the model.
    """
    require_tensorflow_backend()
    require_bool("unsafe_load", unsafe)
    memory_limit()  # is checked before a file is, whose faults are told as such
    if isinstance(source, (str, os.PathLike)):
        model = _load_file(os.fspath(source), unsafe)
    elif isinstance(source, keras.Model) or is_tf_keras(source):
        model = source
    else:
        raise LoadError(
            f"Cannot load a {type(source).__name__}: pass a Keras model or the path of a .keras or .h5 file."
        )
    _refuse_unsupported(model)
    require_sound_names(model)
    if is_tf_keras(model):
        model = from_tf_keras(model)
    if not (model.built and getattr(model, "inputs", None)):
        model = _built_copy(model, input_shape)
    model = _with_static_shapes(model, input_shape)
    require_sound_weights(model)
    return model


def require_tensorflow_backend() -> None:
    """Raises UnsupportedModelError unless Keras runs on TensorFlow, which writes `.tflite` files."""
    if (backend := keras.backend.backend()) != "tensorflow":
        raise UnsupportedModelError(
            f"KERAS_BACKEND is '{backend}', but tfdatafree needs TensorFlow: "
            "set KERAS_BACKEND=tensorflow before importing keras."
        )


def is_tf_keras(thing: Any) -> bool:
    """Whether `thing` is a model or layer of the package tf_keras, without importing that package."""
    return any(cls.__module__.split(".")[0] == "tf_keras" for cls in type(thing).__mro__)


def _load_file(path: str, unsafe: bool) -> Any:
    kind = keras_file_kind(path)
    return _load_zip(path, unsafe) if kind == ".keras" else _load_hdf5(path, unsafe)


def _load_zip(path: str, unsafe: bool) -> keras.Model:
    try:
        with zipfile.ZipFile(path) as archive:
            require_sound_parts(archive)
            damaged = archive.testzip()
            config = read_part(archive, "config.json")
            metadata = read_part(archive, "metadata.json")
            version = str(metadata.get("keras_version", "") if isinstance(metadata, dict) else "")
            values = 0 if damaged else archive_values(archive)
    except LoadError:
        raise
    except KeyError as error:
        raise LoadError(f"'{path}' is not a Keras file: the zip archive lacks config.json or metadata.json.") from error
    except Exception as error:  # zlib, struct and json each raise errors of their own for damaged files
        raise LoadError(f"'{path}' is truncated or damaged: {first_line(error)}") from error
    if damaged:
        raise LoadError(f"'{path}' is truncated or damaged: its part {damaged} does not match its checksum.")
    require_sound_config(config, path, unsafe=unsafe)
    if version.startswith("2."):
        refuse_hard_sigmoid(config)
    try:
        with limited_weights(path, values):
            return keras.models.load_model(path, compile=False, safe_mode=not unsafe)
    except LoadError:
        raise
    except Exception as error:
        _explain(path, config, version, error, unsafe)
        if version.startswith("2."):
            logging.info("Keras 3 cannot load '%s' (%s); trying tf_keras.", path, first_line(error))
            with limited_weights(path, values):
                return load_keras2_archive(path, config, unsafe)
        raise LoadError(f"'{path}' cannot be loaded: {first_line(error)}") from error


def _load_hdf5(path: str, unsafe: bool) -> Any:
    try:
        require_sound_heaps(path)
        with h5py.File(path, "r") as file:
            config, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "2.")
            version = version.decode() if isinstance(version, bytes) else str(version)
            config = config if config is None else read_json(config, f"the config in '{path}'")
            values = count_values(file, path)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"'{path}' is truncated or damaged: {first_line(error)}") from error
    if config is None:
        raise LoadError(f"'{path}' holds no model, perhaps only weights: write it with model.save, not save_weights.")
    refuse_keras1(path, version)
    require_sound_config(config, path, unsafe=unsafe)
    if version.startswith("2."):
        refuse_hard_sigmoid(config)
    try:
        model = _read_hdf5(path, config, values, unsafe)
    except LoadError:
        raise
    except Exception as error:
        _explain(path, config, version, error, unsafe)
        if not version.startswith("2."):
            raise LoadError(f"'{path}' cannot be loaded: {first_line(error)}") from error
        logging.info("Keras 3 cannot load '%s' (%s); trying tf_keras.", path, first_line(error))
        return _load_keras2_hdf5(path, config, values, unsafe)
    return model if has_written_shapes(model, config) else _load_keras2_hdf5(path, config, values, unsafe)


def _load_keras2_hdf5(path: str, config: dict, values: int, unsafe: bool) -> keras.Model:
    with limited_weights(path, values):
        return load_keras2_file(path, config, unsafe)


def _read_hdf5(path: str, config: dict, values: int, unsafe: bool) -> keras.Model:
    cleaned = without_unknown_entries(config)
    if cleaned == config:
        with limited_weights(path, values):
            return keras.models.load_model(path, compile=False, safe_mode=not unsafe)
    with temporary_folder() as folder, limited_weights(path, values):
        rewritten = shutil.copyfile(path, os.path.join(folder, "model.h5"))
        with h5py.File(rewritten, "r+") as file:
            file.attrs["model_config"] = json.dumps(cleaned)
        return keras.models.load_model(rewritten, compile=False, safe_mode=not unsafe)


def _explain(path: str, config: dict, version: str, error: Exception, unsafe: bool) -> None:
    """Raises an error that says why Keras refused `config`, which Keras `version` wrote, if the reason is known."""
    lambdas = [thing for thing in serialized_objects(config) if thing["class_name"] in ("Lambda", "__lambda__")]
    if lambdas and not unsafe and "safe_mode" in str(error):
        raise UnsupportedModelError(
            f"{config_label(lambdas[0])} in '{path}' runs Python code that is stored in the file. {TRUST}"
        ) from error
    if custom := _unregistered_class(config):
        raise UnsupportedModelError(
            f"'{path}' needs the custom class '{custom}', which Keras does not know here: import the module that "
            "registers it (keras.saving.register_keras_serializable), load the model and pass the model object."
        ) from error
    if is_newer(version, keras.__version__):
        raise LoadError(
            f"'{path}' was saved by Keras {version[:20]}; you have {keras.__version__}, which cannot read it: "
            f"pip install -U keras, or save the model with Keras {keras.__version__} or older."
        ) from error


def _unregistered_class(config: dict) -> str | None:
    if any(thing["class_name"] in TFMOT_CLASSES for thing in serialized_objects(config)):
        return None  # load_keras2_file knows the classes inside TFMOT's wrappers
    namespaces = (keras.layers, keras.models, keras.initializers, keras.regularizers, keras.constraints)
    for thing in serialized_objects(config):
        name, module = thing["class_name"], thing.get("module")
        name = thing.get("config") if name == "function" else name
        registered = thing.get("registered_name") or name
        if not isinstance(name, str) or name.startswith("__"):
            continue
        if keras.saving.get_registered_object(registered) is not None:
            continue
        if module is None:  # the format of .h5, or a registered class
            known = any(hasattr(space, name) for space in namespaces) and registered == name
            if not known and name not in {"Functional", "TFOpLambda", "SlicingOpLambda"}:
                return name
        elif thing["class_name"] == "function" or module.split(".")[0] not in _OWN_PACKAGES:
            return name
    return None


def _keras_class_names(thing: Any) -> set[str]:
    """Names of the Keras 2 or 3 classes that `thing` inherits from."""
    return {cls.__name__ for cls in type(thing).__mro__ if cls.__module__.split(".")[0] in ("keras", "tf_keras")}


def _refuse_unsupported(model: Any) -> None:
    """Raises UnsupportedModelError if `model`, of Keras 2 or 3, contains a subclassed model or a recurrent layer."""
    caller = next(cls for cls in type(model).__mro__ if "call" in vars(cls))
    if not _keras_class_names(model) & {"Functional", "Sequential"} or caller.__module__.split(".")[0] not in (
        "keras",
        "tf_keras",
    ):
        raise UnsupportedModelError(
            f"{label(model)} is a subclassed model, whose layers cannot be seen from outside: "
            "rewrite it with the functional API, keras.Model(inputs, outputs)."
        )
    for layer in model.layers:
        inner = layer
        while "Wrapper" in _keras_class_names(inner) and not _keras_class_names(inner) & {
            "Bidirectional",
            "TimeDistributed",
        }:
            inner = inner.layer
        names = _keras_class_names(inner)
        if names & {"RNN", "Bidirectional"}:
            raise UnsupportedModelError(
                f"{label(inner)} is recurrent and cannot be quantized layer by layer; "
                "cut the model before it and compress the convolutional part."
            )
        if "TimeDistributed" in names:
            raise UnsupportedModelError(
                f"{label(inner)} applies a layer at each time step and cannot be quantized layer by layer; "
                "fold time into the batch and call the inner layer itself."
            )
        if "Model" in names:
            _refuse_unsupported(inner)


def _built_copy(model: keras.Sequential, input_shape: Any) -> keras.Model:
    if not isinstance(input_shape, tuple):
        raise UnsupportedModelError(
            f"{label(model)} is not built, so it has no input shape: give it a keras.Input as its first layer, "
            "or pass input_shape=(224, 224, 3) (command line: --input_shape=224,224,3)."
        )
    logging.warning("'%s' is not built: layers without weights get random ones.", model.name)
    # Three sizes may mean (H, W, C) or (batch, T, C): the one that the model accepts is taken.
    for shape in (input_shape, input_shape[1:]):
        try:
            layers = [_copy_layer(layer) for layer in model.layers]
            built = keras.Sequential([keras.Input(shape=shape, dtype="float32"), *layers], name=model.name)
        except (ValueError, TypeError) as error:
            reason = error
            continue
        _copy_weights(model, built)
        return built
    raise ValueError(
        f"input_shape is {input_shape}, which '{model.name}' does not accept: {first_line(reason)}"
    ) from reason


def _with_static_shapes(model: keras.Model, input_shape: Any) -> keras.Model:
    """Returns `model`, or a copy of it on inputs whose None sizes are replaced by those of `input_shape`."""
    by_name = {tensor.name: tensor for tensor in model.inputs}
    if isinstance(input_shape, Mapping):
        new_shapes = dict(input_shape)
        if unknown := sorted(set(new_shapes) - set(by_name)):
            raise ValueError(f"input_shape names {unknown}; the inputs are {sorted(by_name)}.")
    elif input_shape is None:
        new_shapes = {}
    elif len(by_name) == 1:
        new_shapes = dict.fromkeys(by_name, input_shape)
    else:
        raise ValueError(
            f"input_shape is one shape for several inputs; pass a dict with a shape for each of {sorted(by_name)}."
        )
    shapes = {}
    for name, tensor in by_name.items():
        sizes = tuple(tensor.shape[1:])
        shapes[name] = _fit_shape(name, sizes, new_shapes[name]) if name in new_shapes else sizes
        if None in shapes[name]:
            example = tuple(224 if size is None else size for size in sizes)
            raise UnsupportedModelError(
                f"Input '{name}' has the dynamic shape {tuple(tensor.shape)}: pass input_shape={example} "
                f"(command line: --input_shape={','.join(map(str, example))})."
            )
    if all(shapes[name] == tuple(tensor.shape[1:]) for name, tensor in by_name.items()):
        return model
    inputs = [keras.Input(shape=shapes[name], dtype=tensor.dtype, name=name) for name, tensor in by_name.items()]
    try:
        if isinstance(model, keras.Sequential):
            copied = keras.Sequential([*inputs, *map(_copy_layer, model.layers)], name=model.name)
        else:
            packed = keras.tree.pack_sequence_as(model.input, inputs)
            copied = keras.models.clone_model(model, input_tensors=packed, clone_function=_copy_layer)
    except ValueError as error:
        raise ValueError(
            f"input_shape is {input_shape}, which '{model.name}' does not accept: {first_line(error)}"
        ) from error
    _copy_weights(model, copied)
    return copied


def _fit_shape(name: str, sizes: InputShape, shape: Any) -> InputShape:
    """Returns `shape` without a batch size. Raises ValueError where it does not fit the model's `sizes`, without one too."""
    given_shape = tuple(shape)
    shape = given_shape[1:] if len(given_shape) == len(sizes) + 1 else given_shape
    fits = len(shape) == len(sizes) and all(
        isinstance(new, int) and 0 < new < 2**31 and old in (None, new) for old, new in zip(sizes, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"input_shape is {given_shape}, but input '{name}' takes {sizes} (None: any positive size).")
    return shape


def _copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.Model):
        # Nested models keep their own (dynamic) Input: the outer model calls them with static shapes.
        return keras.models.clone_model(layer, clone_function=_copy_layer)
    if type(layer) is keras.layers.Lambda:
        # The function is already in this process, so Keras need not check where its code comes from.
        entries = {"name": layer.name, "dtype": layer.dtype_policy, "mask": layer.mask, "arguments": layer.arguments}
        return keras.layers.Lambda(layer.function, output_shape=layer._output_shape, **entries)
    return type(layer).from_config(layer.get_config())


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights of each layer to the layer of the same name, also in nested models."""
    for layer in source.layers:
        if not layer.weights:
            continue
        twin = target.get_layer(layer.name)
        if isinstance(layer, keras.Model):
            _copy_weights(layer, twin)
        else:
            set_layer_weights(twin, layer.get_weights())
