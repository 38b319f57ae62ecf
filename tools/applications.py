"""Compresses families of keras.applications, with random weights, and counts operators, and what stays float in the files.

    python tools/applications.py --families=MobileNetV2,ConvNeXtTiny --image_size=96 --markdown=families.md
    python tools/applications.py --families= --kinds=all        # one small network for each kind of layer

It tests whether an architecture can be compressed, not how accurate the network stays. Weights are random. Each
BatchNormalization gets the statistics of what reaches it on procedural images: activations stay in a usual range, however
deep the network is. Each family is compressed in a process of its own. The columns:
    operators    of the file; `converter`: of the int8 file that TFLite's converter makes of the same model, calibrated on
                 procedural images. Where ours has more, a line below says which
                 `float ops` and `float` count the operators and the tensors that are float
    requant      QUANTIZE operators between two integer grids
    lsb          largest difference, in steps, between a tensor of the file and its simulation on equal inputs
    exempt       tensors that the simulation does not compute operator by operator; `lsb` leaves them out. In brackets: theirs
    SQNR         of all tensors, median and minimum, in dB; `output` is that of the last one
    seconds      of the compression alone, without imports and building
    before       memory that the process held when the compression began; `peak MB` is of the whole process
"""

import collections
import contextlib
import dataclasses
import io
import os
import re
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import benchmark
import command
import layer_kinds
import own_process

# TensorFlow and the package are imported in the children only: the parent has to stay small, see own_process.py.

_SETTLING_IMAGES, _CALIBRATION_IMAGES = 8, 2
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_VARIANCE = (0.229**2, 0.224**2, 0.225**2)


@dataclasses.dataclass(frozen=True)
class Family:
    """A constructor of keras.applications, its default image size, the smallest useful one, and the range of inputs.

    With `is_kind` it is a kind of layer instead, whose network `layer_kinds` builds, of one size only.
    """

    name: str
    size: int = 224
    smallest: int = 32
    input_range: tuple[float, float] = (-1.0, 1.0)
    is_kind: bool = False


# Those that take [0, 255] begin with a Rescaling or Normalization layer of their own.
FAMILIES = {
    family.name: family
    for family in (
        Family("MobileNet"),
        Family("MobileNetV2"),
        Family("MobileNetV3Small", input_range=(0.0, 255.0)),
        Family("MobileNetV3Large", input_range=(0.0, 255.0)),
        Family("ResNet50"),
        Family("ResNet50V2"),
        Family("EfficientNetB0", input_range=(0.0, 255.0)),
        Family("EfficientNetV2B0", input_range=(0.0, 255.0)),
        Family("DenseNet121"),
        Family("Xception", 299, 71),
        Family("InceptionV3", 299, 75),
        Family("NASNetMobile"),
        Family("VGG16"),
        Family("ConvNeXtTiny", input_range=(0.0, 255.0)),
    )
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of the table."""

    family: Family
    image_size: int
    recipe: str
    seed: int
    file: str | None = None


def build(family: Family, image_size: int, seed: int):
    """Returns the family's model with random weights and the statistics that `settle` gives it."""
    import keras

    if family.is_kind:
        model = layer_kinds.build(family.name, seed)
    else:
        keras.utils.set_random_seed(seed)
        constructor = getattr(keras.applications, family.name)
        model = constructor(weights=None, input_shape=(image_size, image_size, 3))
    settle(model, family.input_range, seed)
    return model


def settle(model, input_range: tuple[float, float], seed: int) -> None:
    """Gives the model's normalizing layers usual weights, in place.

    - BatchNormalization: moving statistics of what reaches it on procedural images, gamma from [0.5, 1.5], beta from
      N(0, 0.3).
    - LayerNormalization: the same gamma and beta.
    - LayerScale of ConvNeXt, which starts at 1e-6: values from [0.1, 1].
    - Normalization: ImageNet's mean and variance.
    """
    import keras
    import tensorflow as tf

    from tfdatafree.inputs.procedural import procedural_images
    from tfdatafree.model.graph import Graph, Layer

    random = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return random.uniform(0.5, 1.5, shape) if name == "gamma" else random.normal(0, 0.3, shape)

    def call(node, live):
        operation = graph.operation_of(node)
        new = {}
        if isinstance(operation, keras.layers.BatchNormalization):
            x = live[node.inputs[0]]
            mean, variance = tf.nn.moments(x, list(range(len(x.shape) - 1)))
            new = {"moving_mean": mean, "moving_variance": variance}
        normalizes = isinstance(operation, (keras.layers.BatchNormalization, keras.layers.LayerNormalization))
        for variable in operation.weights if isinstance(operation, keras.layers.Layer) else []:
            if variable.name in new:
                variable.assign(new[variable.name])
            elif normalizes:
                variable.assign(draw(variable.name, variable.shape))
            elif type(operation).__name__ == "LayerScale":
                variable.assign(random.uniform(0.1, 1.0, variable.shape))
        if isinstance(operation, keras.layers.Normalization) and operation.weights:
            operation.set_weights([np.array(value) for value in (_IMAGENET_MEAN, _IMAGENET_VARIANCE, 1)])
            operation.finalize_state()
        if isinstance(operation, keras.layers.Layer):
            graph.layers[node.layer] = Layer(operation, tuple(np.array(v) for v in operation.weights))
        return graph.call(node, live)

    graph = Graph.from_keras(model)
    images = procedural_images(_SETTLING_IMAGES, model.inputs[0].shape[1:], *input_range, seed=seed)
    for _ in graph.walk([tf.convert_to_tensor(images)], call):
        pass


def measure(job: Job) -> dict:
    """Builds and compresses one family; returns the figures of its row."""
    import tfdatafree

    model = build(job.family, job.image_size, job.seed)
    before = peak_mb()
    started, cpu = time.perf_counter(), time.process_time()
    compressed = tfdatafree.compress(model, job.recipe, input_range=job.family.input_range, seed=job.seed, verbose=0)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    peak = peak_mb()
    others = converted_operators(model, job)
    if job.file:
        Path(job.file).write_bytes(compressed.tflite)
    return {
        **count_operators(compressed.tflite),
        "converter": None if others is None else others["operators"],
        "converter_kinds": None if others is None else others["kinds"],
        "converter_float": None if others is None else others["float_operators"],
        **summarize(compressed.report),
        "bytes": len(compressed.tflite),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "before_mb": before,
        "peak_mb": peak,
    }


def converted_operators(model, job: Job) -> dict | None:
    """Counts the operators of the converter's int8 file of the same model; None where it makes none."""
    from tfdatafree.inputs.procedural import procedural_images

    shape = model.inputs[0].shape[1:]
    images = procedural_images(_CALIBRATION_IMAGES, shape, *job.family.input_range, seed=job.seed)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Keras' export describes the model
            return count_operators(benchmark.compress_with_ptq(model, images))
    except Exception:  # noqa: BLE001  (whatever fails, it makes no file)
        return None


def count_operators(content: bytes) -> dict:
    """Counts the file's operators of each kind, and its float operators and tensors."""
    from tfdatafree.tflite.flatbuffer import FLOAT32, File

    file = File.parse(content)
    kinds, in_float = collections.Counter(), collections.Counter()
    for operator in file.operators:
        name = file.operator_name(operator)
        kinds[name] += 1
        tensors = [i for i in (*operator.inputs, *operator.outputs) if i >= 0]
        in_float[name] += any(file.tensors[i].type == FLOAT32 for i in tensors)
    return {
        "operators": sum(kinds.values()),
        "kinds": dict(kinds.most_common()),
        "float_operators": sum(in_float.values()),
        "float_kinds": dict(+in_float),
        "float_tensors": sum(tensor.type == FLOAT32 for tensor in file.tensors),
    }


def summarize(report) -> dict:
    """Returns differences, SQNR and reasons from the report of a compression."""
    exempt = {row.name: row.lsb for row in report.layers if row.name in report.notes}
    sqnr = {row.name: row.sqnr_db for row in report.layers if np.isfinite(row.sqnr_db)}
    return {
        "requantized": report.requantized,
        "lsb": max((row.lsb for row in report.layers if row.name not in exempt), default=0),
        "exempt": len(exempt),
        "exempt_lsb": max(exempt.values(), default=0),
        "sqnr_median": statistics.median(sqnr.values()) if sqnr else None,
        "sqnr_min": min(sqnr.values(), default=None),
        "sqnr_min_at": min(sqnr, key=sqnr.get, default=None),
        "sqnr_output": report.layers[-1].sqnr_db if report.layers else None,
        "kept": dict(report.kept),
        "notes": dict(report.notes),
    }


def peak_mb() -> float:
    """Returns the largest resident memory of this process until now, in MB (on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_job(job: Job) -> dict:
    """Measures one row in a process of its own; a failure becomes {"error": its reason in one line}."""
    names = {"family": job.family.name, "image_size": job.image_size, "recipe": job.recipe}
    return {**names, **own_process.run_row(measure, job)}


COLUMNS = (
    "family", "size", "operators", "converter", "float ops", "float", "requant", "lsb", "exempt", "SQNR med", "min", "output",
    "bytes", "seconds", "before", "peak MB",
)  # fmt: skip


def cells(row: dict) -> list[str]:
    """Returns the texts of a row, one per column; of a failed row only its names and the reason."""
    if "error" in row:
        return [row["family"], str(row["image_size"]), row["error"]]

    def decibels(key: str) -> str:
        return "-" if row[key] is None else f"{row[key]:.1f}"

    return [
        row["family"],
        str(row["image_size"]),
        str(row["operators"]),
        "-" if row["converter"] is None else str(row["converter"]),
        str(row["float_operators"]),
        str(row["float_tensors"]),
        str(row["requantized"]),
        str(row["lsb"]),
        f"{row['exempt']} ({row['exempt_lsb']})" if row["exempt"] else "0",
        decibels("sqnr_median"),
        decibels("sqnr_min"),
        decibels("sqnr_output"),
        f"{row['bytes']:,}",
        f"{row['seconds']:.1f}",
        f"{row['before_mb']:.0f}",
        f"{row['peak_mb']:.0f}",
    ]


def plain(texts: list[str] | tuple[str, ...]) -> str:
    """Returns a line of the table on the screen."""
    widths = (27, 4, 9, 9, 9, 5, 7, 3, 8, 8, 5, 6, 11, 7, 6, 7)
    parts = [
        text.ljust(width) if i == 0 else text.rjust(width)
        for i, (text, width) in enumerate(zip(texts, widths, strict=False))
    ]
    return "  ".join(parts)


def markdown(rows: list[dict]) -> str:
    """Returns the table in Markdown, and below it what was kept as it was, with the reasons."""
    lines = [COLUMNS, ("---", *("---:",) * (len(COLUMNS) - 1))]
    lines += [texts + [""] * (len(COLUMNS) - len(texts)) for texts in map(cells, rows)]
    table = "".join(f"| {' | '.join(text.replace('|', '/') for text in texts)} |\n" for texts in lines)
    return table + "".join(f"\n{line}" for row in rows for line in reasons(row)) + "\n"


def reasons(row: dict) -> list[str]:
    """Returns one line per reason why something was kept as it was, with how often and one example; and the operators that the
    converter's file does without.
    """
    found: dict[str, list[str]] = {}
    for name, reason in {**row.get("kept", {}), **row.get("notes", {})}.items():
        found.setdefault(re.sub(r"'[^']*'", "...", reason), []).append(name)
    lines = [f"- {row['family']}: {len(names)} x {reason} (e.g. {names[0]})" for reason, names in found.items()]
    if row.get("converter") is not None and row["operators"] > row["converter"]:
        more = collections.Counter(row["kinds"])
        more.subtract(row["converter_kinds"])
        changed = ", ".join(f"{count:+d} {kind}" for kind, count in sorted(more.items()) if count)
        in_float = f", which has {row['converter_float']} in float" if row["converter_float"] else ""
        lines.append(f"- {row['family']}: more operators than the converter's file{in_float}: {changed}")
    return lines


def _define_flags() -> None:
    flags.DEFINE_list("families", list(FAMILIES), f"Of {', '.join(FAMILIES)}.")
    flags.DEFINE_string("kinds", "", "Kinds of layers, separated by semicolons, or all: also a small network of each.")
    flags.DEFINE_integer("image_size", 0, "Height and width of the images; 0 takes each family's own.", lower_bound=0)
    flags.DEFINE_string("recipe", "int8", "Recipe of tfdatafree.")
    flags.DEFINE_integer("seed", 0, "Of the weights, the statistics and the compression.")
    flags.DEFINE_string("save", None, "Also write each file into this folder.")
    command.define_outputs()


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        families = (
            [FAMILIES[name] for name in command.choose("families", values.families, FAMILIES)]
            if values.families
            else []
        )
        kinds = values.kinds.split(";") if values.kinds else []
        kinds = own_process.run(layer_kinds.kinds) if kinds == ["all"] else kinds
        families += [Family(name, layer_kinds.SIZE, layer_kinds.SIZE, is_kind=True) for name in kinds]
    rows = []
    print(plain(COLUMNS))
    for family in families:
        fixed = family.is_kind or not values.image_size
        size = family.size if fixed else max(values.image_size, family.smallest)
        file = str(Path(values.save) / f"{family.name}_{values.recipe}.tflite") if values.save else None
        rows.append(run_job(Job(family, size, values.recipe, values.seed, file)))
        print(plain(cells(rows[-1])), flush=True)
        for line in reasons(rows[-1]):
            print(f"  {line}", flush=True)
    command.write_json(values.json, rows)
    command.write_text(values.markdown, markdown(rows))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    command.run(main, _define_flags)
