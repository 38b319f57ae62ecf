"""Scores a Keras model or a `.tflite` file on a labelled set of images.

    python tools/evaluate.py --model=net.keras --data=val.zip --preprocess=tf
    python tools/evaluate.py --model=net.tflite --data=val.zip --preprocess=tf --reference=net.keras --json=scores.json

A labelled set is an `.npz` with `x` and `y`, or a zip or a folder of images of one size. Zip and folder need a
`labels.csv` with the columns `filename` and `class`. With --reference, three figures compare the two models:
how often their argmaxes agree, ||outputs - reference|| / ||reference|| over the whole set, and the difference in top-1.

Logits are compared wherever the file holds them: the final softmax of a Keras model is removed first. A `.tflite` that
ends in softmax has only probabilities. The figure is then called `relative_error_probabilities`.
"""

import csv
import functools
import io
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import command

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

# name: (scale, mean, std) of `(x / scale - mean) / std`
PRESETS = {
    "none": (1.0, 0.0, 1.0),
    "tf": (127.5, 1.0, 1.0),
    "unit": (255.0, 0.0, 1.0),
    "imagenet": (255.0, _IMAGENET_MEAN, _IMAGENET_STD),
}


def load_labelled(path: str | Path, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Reads a labelled set.

    Args:
        path: An `.npz` with `x` and `y`; or a zip or a folder of images, all of one size, with `labels.csv`.
        limit: How many examples to take, spread evenly over the file; None takes all. Many sets are sorted by class:
            their first few examples are of one class.

    Returns:
        x: (n, height, width, channels) uint8; the array of an `.npz` keeps its own dtype.
        y: (n,) int64.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is not a labelled set; the message says what is missing.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; take at least 1 example, or None for all.")
    if path.is_dir():
        return _read_images(path, lambda name: (path / name).read_bytes(), limit)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    if path.suffix == ".npz":
        return _read_npz(path, limit)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _read_images(path, archive.read, limit)
    raise ValueError(f"{str(path)!r} is no labelled set; give an .npz, or a zip or a folder with labels.csv.")


def _read_npz(path: Path, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as arrays:
        if not {"x", "y"} <= set(arrays.files):
            raise ValueError(f"{str(path)!r} holds {arrays.files}; an .npz needs the arrays 'x' and 'y'.")
        x, y = arrays["x"], arrays["y"].reshape(-1)
    if len(x) != len(y) or not len(y):
        raise ValueError(f"{str(path)!r} holds {len(x)} examples and {len(y)} labels; one label per example is needed.")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"The labels in {str(path)!r} are {y.dtype}; class indices (integers) are needed.")
    chosen = spread(len(y), limit)
    return x[chosen], y[chosen].astype(np.int64)


def _read_images(path: Path, read: Callable[[str], bytes], limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    try:
        table = list(csv.DictReader(io.StringIO(read("labels.csv").decode("utf-8-sig"))))
    except (KeyError, FileNotFoundError):
        raise ValueError(f"{str(path)!r} has no labels.csv; add one with the columns filename,class.") from None
    if not table or not {"filename", "class"} <= set(table[0]):
        columns = list(table[0]) if table else "no rows"
        raise ValueError(f"labels.csv of {str(path)!r} has {columns}; the columns filename,class are needed.")
    table = [table[index] for index in spread(len(table), limit)]
    x = None
    for index, row in enumerate(table):
        try:
            image = np.asarray(Image.open(io.BytesIO(read(row["filename"]))).convert("RGB"))
        except (KeyError, OSError) as error:
            raise ValueError(f"Image {row['filename']!r} of {str(path)!r} cannot be read: {error}") from error
        if x is None:
            x = np.empty((len(table), *image.shape), np.uint8)
        if image.shape != x.shape[1:]:
            raise ValueError(
                f"Image {row['filename']!r} is {image.shape}, the first one {x.shape[1:]}; resize them to one size."
            )
        x[index] = image
    return x, np.array([int(row["class"]) for row in table], np.int64)


def spread(count: int, limit: int | None) -> np.ndarray:
    """Returns the indices of `limit` of `count` examples, evenly spaced from the first; of all where that is not more."""
    taken = count if limit is None else min(limit, count)
    return np.arange(taken) * count // taken if taken else np.arange(0)


def normalize(x: np.ndarray, scale, mean, std) -> np.ndarray:
    """Returns `(x / scale - mean) / std` as float32; each parameter is a number, or one number per channel (last axis).

    A vector of one number serves every channel. Any other length than the number of channels is a ValueError.
    """
    for name, value in (("scale", scale), ("mean", mean), ("std", std)):
        if np.size(value) not in (1, x.shape[-1]):
            channels = x.shape[-1]
            raise ValueError(f"{name} has {np.size(value)} values for {channels} channels; give 1 or {channels}.")
    scale, mean, std = (np.asarray(value, np.float32) for value in (scale, mean, std))
    if not (scale.all() and std.all()):
        raise ValueError(f"scale is {scale}, std is {std}; both divide and must not be 0.")
    return (x.astype(np.float32) / scale - mean) / std


def preprocess(x: np.ndarray, name: str) -> np.ndarray:
    """Returns the images as the float32 that a network expects.

    Args:
        x: (..., channels), values 0 to 255.
        name: "none" (x), "tf" (x / 127.5 - 1), "unit" (x / 255) or "imagenet" ((x / 255 - mean) / std, per channel).
    """
    if name not in PRESETS:
        raise ValueError(f"preprocess is {name!r}; choose one of {', '.join(PRESETS)}.")
    return normalize(x, *PRESETS[name])


def predict(model, x: np.ndarray, threads: int = 2, batch: int = 32, preprocess: Callable | None = None) -> np.ndarray:
    """Runs a model over `x`.

    Args:
        model: A keras.Model, the bytes of a `.tflite`, or the path of a `.keras`, `.h5` or `.tflite` file.
        x: (n, height, width, channels), any dtype.
        threads: Threads of the TFLite interpreter. TensorFlow's own are set once per process, see `main`.
        batch: How many examples are preprocessed at a time, and given to a Keras model; a `.tflite` runs at its own.
        preprocess: Maps a (batch, ...) slice of `x` to the network's float input; None means that `x` is that already.
            It is called batch by batch, so that the float images are never in memory all at once.

    Returns:
        (n, ...) float32 outputs; those of an integer `.tflite` are dequantized.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; take at least 1.")
    if not len(x):
        raise ValueError("x holds no examples.")
    if isinstance(model, (str, Path)):
        model = _load_model(Path(model))
    run = _tflite_runner(model, threads) if isinstance(model, bytes) else _keras_runner(model)
    outputs = []
    for start in range(0, len(x), batch):
        images = x[start : start + batch]
        outputs.append(run(images if preprocess is None else preprocess(images)))
    return np.concatenate(outputs)


def _load_model(path: Path):
    """Reads a file as what `predict` runs: the bytes of a `.tflite`, otherwise a keras.Model.

    Keras opens the models, not tfdatafree: what is measured must not take part in measuring.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    if path.suffix == ".tflite":
        return path.read_bytes()
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"Keras {keras.__version__} cannot open {str(path)!r}: {reason}") from error


def _keras_runner(model) -> Callable[[np.ndarray], np.ndarray]:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"Model {model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; 1 and 1 are needed."
        )

    def run(images: np.ndarray) -> np.ndarray:
        outputs = model.predict_on_batch([images] if isinstance(model.input, list) else images)
        return np.asarray(outputs[0] if isinstance(outputs, (list, tuple)) else outputs, np.float32)

    return run


def _tflite_runner(content: bytes, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"The .tflite has {len(inputs)} inputs and {len(outputs)} outputs; 1 and 1 are needed.")
    source, target = inputs[0], outputs[0]
    size = source["shape"][0]

    def run(images: np.ndarray) -> np.ndarray:
        results = []
        for start in range(0, len(images), size):
            piece = images[start : start + size]
            padded = np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), axis=0)])
            interpreter.set_tensor(source["index"], quantize(padded, source["dtype"], *source["quantization"]))
            interpreter.invoke()
            result = interpreter.get_tensor(target["index"])[: len(piece)]
            results.append(dequantize(result, *target["quantization"]))
        return np.concatenate(results)

    return run


def quantize(x: np.ndarray, dtype: type, scale: float, zero_point: int) -> np.ndarray:
    """Rounds real values to a TFLite tensor: round_half_even(x / scale) + zero_point, clipped to `dtype`.

    Float tensors are only cast. A scale of 0 means "not quantized" in TFLite: `x` holds integers already.
    """
    if np.issubdtype(dtype, np.floating):
        return x.astype(dtype)
    limits = np.iinfo(dtype)
    steps = np.rint(x / (np.float32(scale) or np.float32(1))) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def dequantize(q: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """Returns the reals, float32, that a TFLite tensor stands for: scale * (q - zero_point), or q where scale is 0."""
    if np.issubdtype(q.dtype, np.floating) or not scale:
        return q.astype(np.float32)
    return (np.float32(scale) * (q.astype(np.int64) - zero_point)).astype(np.float32)


def score(y: np.ndarray, outputs: np.ndarray, reference: np.ndarray | None = None, probabilities: bool = False) -> dict:
    """Scores the outputs of a model, and compares them with those of a reference on the same examples.

    Args:
        y: (n,) class indices.
        outputs: (n, classes) logits or probabilities.
        reference: (n, classes), of the same kind as `outputs`; None compares nothing.
        probabilities: Whether both hold probabilities. It only names the error: errors of logits and of
            probabilities cannot be compared.

    Returns:
        `n` and `top1` (a fraction). With a reference also `agreement` (fraction of equal argmaxes), `reference_top1`,
        `top1_difference` (top1 - reference_top1) and `relative_error` = ||outputs - reference|| / ||reference||.
        The last is called `relative_error_probabilities` for probabilities.

    Raises:
        ValueError: shapes that do not match, or outputs that are not finite.
    """
    for name, values in (("outputs", outputs), ("reference", reference)):
        if values is None:
            continue
        if values.ndim != 2 or len(values) != len(y) or values.shape != outputs.shape:
            raise ValueError(f"{name} is {values.shape} for {len(y)} labels and outputs {outputs.shape}.")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds NaN or infinity in {(~np.isfinite(values)).any(axis=1).sum()} examples.")
    if y.min() < 0 or y.max() >= outputs.shape[1]:
        raise ValueError(f"Labels run from {y.min()} to {y.max()}, but there are {outputs.shape[1]} classes.")
    chosen = outputs.argmax(axis=1)
    result = {"n": len(y), "top1": float(np.mean(chosen == y))}
    if reference is None:
        return result
    expected = reference.argmax(axis=1)
    result["reference_top1"] = float(np.mean(expected == y))
    result["top1_difference"] = result["top1"] - result["reference_top1"]
    result["agreement"] = float(np.mean(chosen == expected))
    norm = np.linalg.norm(reference.astype(np.float64))
    error = np.linalg.norm(outputs.astype(np.float64) - reference) / norm if norm else np.inf
    result["relative_error_probabilities" if probabilities else "relative_error"] = float(error)
    return result


def are_probabilities(outputs: np.ndarray) -> bool:
    """Tells whether all outputs lie in [0, 1]. Those of a softmax do; the logits of a whole data set never do.

    The sum of the outputs does not tell: an 8-bit softmax has steps of 1/256, and most of 1000 probabilities round to 0.
    """
    return bool(outputs.min() >= 0 and outputs.max() <= 1)


def logits_model(model):
    """Returns `model` without its final softmax: a layer, a `keras.ops` call, or the `activation` of the last layer.

    Guarantees softmax(logits_model(m)(x)) == m(x). A model that does not end in softmax is returned as it is. `model`
    is never changed: the returned model has its own weights.
    """
    import keras

    last = _last_operation(model)
    fused = getattr(last, "activation", None) is keras.activations.softmax and not _is_softmax_layer(last)
    if not fused and not _is_softmax_layer(last):
        return model

    def without_softmax(layer):
        config = layer.get_config()
        if layer is last and fused:
            config["activation"] = "linear"
        return layer.__class__.from_config(config)

    bare = keras.models.clone_model(model, clone_function=without_softmax)
    bare.set_weights(model.get_weights())
    return bare if fused else keras.Model(bare.inputs, _last_operation(bare).input, name=model.name)


def _last_operation(model):
    if len(model.outputs) != 1:
        raise ValueError(f"Model {model.name!r} has {len(model.outputs)} outputs; 1 is needed.")
    # A Sequential has layers only; a functional model may also hold calls of keras.ops, which are not layers.
    operations = getattr(model, "operations", None) or model.layers
    return next((operation for operation in reversed(operations) if operation.output is model.outputs[0]), None)


def _is_softmax_layer(operation) -> bool:
    import keras

    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.softmax
    return operation.__class__.__name__ == "Softmax"  # the layer, and the operation behind keras.ops.softmax


def evaluate(model, x, y, *, reference=None, preprocess=None, threads: int = 2, batch: int = 32) -> dict:
    """Returns `score` of a model, with logits compared where both models have them.

    Args:
        model, reference: As in `predict`; `reference` may be None.
        x, y: As `load_labelled` gives them.
        preprocess, threads, batch: As in `predict`.
    """
    run = functools.partial(predict, x=x, threads=threads, batch=batch, preprocess=preprocess)
    model, reference = (_load_model(Path(m)) if isinstance(m, (str, Path)) else m for m in (model, reference))
    if reference is None:
        return score(y, run(model))
    outputs = run(model if isinstance(model, bytes) else logits_model(model))
    probabilities = are_probabilities(outputs)
    expected = run(reference if isinstance(reference, bytes) or probabilities else logits_model(reference))
    if are_probabilities(expected) and not probabilities:
        if isinstance(model, bytes):
            raise ValueError("The model gives logits, the reference probabilities; take a reference without softmax.")
        outputs, probabilities = run(model), True
    return score(y, outputs, expected, probabilities)


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "Model to score: .keras, .h5 or .tflite.", required=True)
    flags.DEFINE_string("data", None, "Labelled set: .npz, or zip or folder with labels.csv.", required=True)
    flags.DEFINE_enum("preprocess", None, list(PRESETS), "Named preprocessing; 'none' if no other is given.")
    flags.DEFINE_list("scale", None, "x / scale comes first. One number, or one per channel.")
    flags.DEFINE_list("mean", None, "Subtracted after scale. One number, or one per channel.")
    flags.DEFINE_list("std", None, "Divides last. One number, or one per channel.")
    flags.DEFINE_integer("limit", None, "Score this many examples, spread evenly over the set.", lower_bound=1)
    flags.DEFINE_integer("threads", 2, "Threads of the interpreter, or of TensorFlow.", lower_bound=1)
    flags.DEFINE_integer("batch", 32, "Examples at a time.", lower_bound=1)
    flags.DEFINE_string("json", None, "Also write the scores to this file.")
    flags.DEFINE_string("reference", None, "Compare with this model, usually the float one.")


def _chosen_preprocess(values: flags.FlagValues) -> Callable[[np.ndarray], np.ndarray]:
    given = {name: values[name].value for name in ("scale", "mean", "std") if values[name].value is not None}
    if given and values.preprocess is not None:
        raise ValueError(f"--preprocess={values.preprocess} and --{next(iter(given))} exclude each other; give one.")
    if not given:
        return functools.partial(preprocess, name=values.preprocess or "none")
    parameters = {"scale": [1.0], "mean": [0.0], "std": [1.0]}
    for name, numbers in given.items():
        try:
            parameters[name] = [float(number) for number in numbers]
        except ValueError:
            raise ValueError(f"--{name}={','.join(numbers)} is not a comma-separated list of numbers.") from None
    return functools.partial(normalize, **parameters)


def main(values: flags.FlagValues) -> int:
    try:
        chosen = _chosen_preprocess(values)
        x, y = load_labelled(values.data, values.limit)
        if not all(path.endswith(".tflite") for path in (values.model, values.reference or ".tflite")):
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(values.threads)
        result = evaluate(
            Path(values.model),
            x,
            y,
            reference=values.reference and Path(values.reference),
            preprocess=chosen,
            threads=values.threads,
            batch=values.batch,
        )
        command.write_json(values.json, {"model": values.model, "data": values.data, **result})
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, value in result.items():
        print(f"{name:30} {value:.4f}" if isinstance(value, float) else f"{name:30} {value}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    command.run(main, _define_flags)
