"""Compresses each layer of Keras by itself, and says what becomes of it in an int8 file.

    python tools/layers.py --markdown=layers.md

Each layer stands behind a convolution (a dense layer, if the layer reads vectors). The columns: the layer, and the operators of
the file besides that convolution; or why there is no file. Layers that only act in training, and those that the convolution
takes over, leave no operator. Weights are random. The names are those of the installed Keras, without synonyms.
"""

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import command

MAP, ROWS, CUBE, VECTOR = (8, 8, 3), (16, 4), (4, 4, 4, 4), (8,)
_NONE = "no operator"
# What a layer is made with: the first of these that it takes.
_ARGUMENTS = ((), (0.2,), (2,), (4, 4), (0.2, 0.2))
# Bases, cells, and layers that hold another framework's or a file's function: not layers of a CNN.
NOT_TRIED = (
    "Layer Wrapper InputLayer RNN GRUCell LSTMCell SimpleRNNCell StackedRNNCells FlaxLayer JaxLayer TFSMLayer "
    "TorchModuleWrapper Pipeline"
).split()
_TEXT = "CategoryEncoding Discretization Embedding HashedCrossing Hashing IntegerLookup ReversibleEmbedding StringLookup".split()
_TEXT.append("TextVectorization")


def names() -> list[str]:
    """The public layers of Keras, each by the name of its class."""
    import keras

    found: dict[type, str] = {}
    for name in dir(keras.layers):
        cls = getattr(keras.layers, name)
        if isinstance(cls, type) and issubclass(cls, keras.layers.Layer) and (name == cls.__name__ or cls not in found):
            found[cls] = name
    return sorted(found.values())


def _cases() -> dict[str, tuple[tuple[int, ...], Callable[[Any, Any], Any]]]:
    """Layer -> the shape of its input, and what it is called with, where the defaults do not do."""
    cases: dict[str, tuple[tuple[int, ...], Callable[[Any, Any], Any]]] = {}
    for rank, shape in ((1, ROWS), (2, MAP), (3, CUBE)):
        for kind in ("Conv", "DepthwiseConv", "SeparableConv"):
            filters = () if kind == "DepthwiseConv" else (4,)
            cases[f"{kind}{rank}D"] = shape, lambda cls, x, filters=filters: cls(*filters, 3)(x)
        cases[f"Conv{rank}DTranspose"] = shape, lambda cls, x: cls(4, 3, 2)(x)
        cases[f"ConvLSTM{rank}D"] = (3, *shape), lambda cls, x: cls(4, 3)(x)
        for kind in ("AveragePooling", "MaxPooling", "UpSampling"):
            cases[f"{kind}{rank}D"] = shape, lambda cls, x: cls(2)(x)
        for kind in ("GlobalAveragePooling", "GlobalMaxPooling"):
            cases[f"{kind}{rank}D"] = shape, lambda cls, x: cls()(x)
        for kind in ("ZeroPadding", "Cropping"):
            cases[f"{kind}{rank}D"] = shape, lambda cls, x: cls(1)(x)
        for kind in ("AdaptiveAveragePooling", "AdaptiveMaxPooling"):
            cases[f"{kind}{rank}D"] = shape, lambda cls, x: cls(2)(x)
        cases[f"SpatialDropout{rank}D"] = shape, lambda cls, x: cls(0.5)(x)
    for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"):
        cases[name] = MAP, lambda cls, x: cls()([x, _convolved(x)])
    for name in ("Attention", "AdditiveAttention"):
        cases[name] = ROWS, lambda cls, x: cls()([x, _convolved(x)])
    cases |= {
        "Activation": (MAP, lambda cls, x: cls("relu")(x)),
        "ActivityRegularization": (MAP, lambda cls, x: cls(l2=0.1)(x)),
        "Bidirectional": (ROWS, lambda cls, x: cls(_keras().LSTM(4))(x)),
        "CenterCrop": (MAP, lambda cls, x: cls(4, 4)(x)),
        "Dense": (VECTOR, lambda cls, x: cls(4)(x)),
        "Dot": (ROWS, lambda cls, x: cls(2)([x, _convolved(x)])),
        "EinsumDense": (ROWS, lambda cls, x: cls("abc,cd->abd", output_shape=(None, 4))(x)),
        "GroupNormalization": (MAP, lambda cls, x: cls(3)(x)),
        "GroupQueryAttention": (ROWS, lambda cls, x: cls(4, 2, 1)(x, x)),
        "Lambda": (MAP, lambda cls, x: cls(lambda y: y * 2)(x)),
        "Masking": (ROWS, lambda cls, x: cls()(x)),
        "MelSpectrogram": ((1024,), lambda cls, x: cls(fft_length=256, sequence_stride=128)(x)),
        "MultiHeadAttention": (ROWS, lambda cls, x: cls(2, 4)(x, x)),
        "Normalization": (MAP, lambda cls, x: cls(mean=[0.1] * 3, variance=[0.5] * 3)(x)),
        "Permute": (MAP, lambda cls, x: cls((2, 1, 3))(x)),
        "RepeatVector": (VECTOR, lambda cls, x: cls(3)(x)),
        "Rescaling": (MAP, lambda cls, x: cls(0.5, -1.0)(x)),
        "Reshape": (MAP, lambda cls, x: cls((64, 3))(x)),
        "Resizing": (MAP, lambda cls, x: cls(5, 5)(x)),
        "STFTSpectrogram": ((1024, 1), lambda cls, x: cls(frame_length=128, frame_step=64, fft_length=128)(x)),
        "SpectralNormalization": (MAP, lambda cls, x: cls(_keras().Conv2D(4, 3))(x)),
        "TimeDistributed": (ROWS, lambda cls, x: cls(_keras().Dense(4))(x)),
    }
    cases |= {name: (ROWS, lambda cls, x: cls(4)(x)) for name in ("GRU", "LSTM", "SimpleRNN")}
    cases |= {
        name: (VECTOR, lambda cls, x: cls(0.5)(x))
        for name in ("AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise")
    }
    return cases


def _keras() -> Any:
    import keras

    return keras.layers


def _convolved(x: Any) -> Any:
    layers = _keras()
    return layers.Dense(x.shape[-1], name="other")(x)


def _any_arguments(cls: Any, x: Any) -> Any:
    for arguments in _ARGUMENTS:
        try:
            layer = cls(*arguments)
        except (TypeError, ValueError):
            continue
        return layer(x)
    raise TypeError("none of the usual arguments")


def _before(shape: tuple[int, ...]) -> Any:
    layers = _keras()
    return layers.Conv2D(shape[-1], 1, name="before") if shape == MAP else layers.Dense(shape[-1], name="before")


def become(name: str, case: tuple[tuple[int, ...], Callable[[Any, Any], Any]]) -> str:
    """The operators of a file with this layer, or why there is none."""
    import keras

    import tfdatafree
    from tfdatafree.tflite.flatbuffer import File

    shape, call = case
    image = keras.Input(shape, name="input")
    try:
        model = keras.Model(image, call(getattr(keras.layers, name), _before(shape)(image)))
        random = np.random.default_rng(0)
        for weight in model.weights:
            if weight.name in ("kernel", "bias", "gamma", "beta"):
                weight.assign(random.uniform(0.1, 0.6, weight.shape))
        done = tfdatafree.compress(model, input_range=(-1, 1), verbose=0, unsafe_load=True)
    except Exception as error:  # noqa: BLE001  (whatever it is, it belongs in the table)
        text = str(error).strip().splitlines()[0]
        if needed := re.search(r"which needs ([\w.]+)", text):
            return f"refused: needs {needed[1]}, which TFLite lacks"
        if "KerasTensor" in text:
            return "refused: fails in Keras itself, in a functional model"
        return "refused: " + text.split(") ")[-1].split("; ")[0].split(": ")[0].rstrip(".")
    file = File.parse(done.tflite)
    kinds: dict[str, int] = {}
    for operator in file.operators[1:]:
        kind = file.operator_name(operator)
        kinds[kind] = kinds.get(kind, 0) + 1
    text = ", ".join(f"{kind} x{count}" if count > 1 else kind for kind, count in kinds.items())
    if floats := sum(tensor.type == 0 for tensor in file.tensors):
        text += f" ({floats} tensors stay float)"
    return text or _NONE


def page() -> list[str]:
    """The results, grouped, as lines of Markdown."""
    import keras

    cases, found = _cases(), {}
    for name in names():
        if name not in (*NOT_TRIED, *_TEXT):
            found[name] = become(name, cases.get(name, (MAP, _any_arguments)))
            print(f"{name:<32}{found[name]}", flush=True)
    by_result: dict[str, list[str]] = {}
    for name, result in found.items():
        by_result.setdefault(result, []).append(name)
    none = ", ".join(by_result.pop(_NONE, []))
    refused = {result: by_result.pop(result) for result in list(by_result) if result.startswith("refused")}
    return [
        f"With Keras {keras.__version__}.",
        "",
        f"**No operator of their own**, because the layer before takes them over, or because they act in training only: {none}.",
        "",
        "| layer | operators in the int8 file |",
        "|---|---|",
        *(f"| {', '.join(layers)} | {result} |" for result, layers in by_result.items()),
        "",
        "| layer | refused, because it |",
        "|---|---|",
        *(f"| {', '.join(layers)} | {result.partition(': ')[2]} |" for result, layers in refused.items()),
        f"| {', '.join(_TEXT)} | reads words or categories, which no CNN does |",
    ]


def main(values: flags.FlagValues) -> int:
    lines = page()
    if values.markdown is not None:
        Path(values.markdown).write_text("\n".join(lines) + "\n")
    return 0


def _define_flags() -> None:
    flags.DEFINE_string("markdown", None, "Also write the result to this file, which docs/supported.md includes.")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tfdatafree").setLevel(logging.ERROR)
    command.run(main, _define_flags)
