"""Measures tfdatafree against post-training quantization with data, on real models with real labelled images.

    python tools/benchmark.py --zoo=../shared/zoo --models=resnet20 --n=1000 --json=table.json --markdown=table.md

Per model, one row each:
    float              the Keras model itself: the reference of the other rows
    tfdatafree:RECIPE  tfdatafree.compress, without any data; one row per recipe of --recipes
    ptq                the TFLite converter, full int8, calibrated with 100 real images
    ptq_noise          the same, calibrated with uniform noise over the input range
    export             model.export(format="litert"), the float file: what any pipeline pays at least
Top-1, agreement and relative error are over the whole set, as tools/evaluate.py defines them; "p" marks an error of
probabilities, where model and file end in softmax (--logits strips it before compression). Seconds are those of the
compression alone, without imports and loading; the float row's are of loading. They are wall time, which other work
on the machine lengthens: the JSON has `cpu_seconds`, over all threads, beside them. Peak MB is the resident memory of
the row's own process until then, so that the float row shows what TensorFlow and the model take anyway.

Names of models, data and calibration images stand here and nowhere else: the package never sees them.
"""

import concurrent.futures
import contextlib
import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import evaluate

_CALIBRATION_IMAGES = 100
_NOISE_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to measure: `file`, its labelled set `data`, and images for `calibration`, all inside --zoo."""

    name: str
    file: str
    data: str
    preprocess: str
    calibration: str

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """Maps images, 0 to 255, to the model's float input."""
        return evaluate.preprocess(x, self.preprocess)

    @property
    def input_range(self) -> tuple[float, float]:
        """Smallest and largest value that an image can have after `prepare`."""
        ends = self.prepare(np.array([[0] * 3, [255] * 3], np.uint8))
        return float(ends.min()), float(ends.max())


SUBJECTS = tuple(
    Subject(name=name, file=file, data=data, preprocess=preprocess, calibration=calibration)
    for name, file, data, preprocess, calibration in (
        ("resnet8", "resnet8_cifar10.keras", "cifar10_test.npz", "none", "cifar10_train5000.npz"),
        ("resnet20", "resnet20_cifar10.keras", "cifar10_test.npz", "imagenet", "cifar10_train5000.npz"),
        ("mobilenet_v1_025", "mobilenet_v1_025.keras", "imagenet_val.zip", "tf", "imagenet_calibration.zip"),
        ("mobilenet_v2", "mobilenet_v2.keras", "imagenet_val.zip", "tf", "imagenet_calibration.zip"),
    )
)

METHODS = ("float", "tfdatafree", "ptq", "ptq_noise", "export")


def compress_with_tfdatafree(model, recipe: str, input_range: tuple[float, float]) -> bytes:
    """Returns the `.tflite` that tfdatafree makes: the only place that calls it."""
    import tfdatafree

    return tfdatafree.compress(model, recipe, input_range=input_range, verbose=0).tflite


def compress_with_ptq(model, calibration: np.ndarray) -> bytes:
    """Returns the full int8 `.tflite` of the TFLite converter, calibrated with (n, height, width, channels) float32."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def export_float(model) -> bytes:
    """Returns the float `.tflite` of Keras' own export."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.tflite"
        model.export(path, format="litert", verbose=False)
        return path.read_bytes()


def uniform_noise(subject: Subject, shape: tuple[int, ...]) -> np.ndarray:
    """Returns `_CALIBRATION_IMAGES` float32 images of `shape`, uniform over the input range."""
    low, high = subject.input_range
    return np.random.default_rng(_NOISE_SEED).uniform(low, high, (_CALIBRATION_IMAGES, *shape)).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One row to measure. The float row leaves its outputs in `reference`, the others compare with them."""

    subject: Subject
    method: str
    recipe: str | None
    zoo: Path
    n: int | None
    threads: int
    logits: bool
    reference: Path

    @property
    def row_name(self) -> str:
        return f"{self.method}:{self.recipe}" if self.recipe else self.method


def measure(job: Job) -> dict:
    """Measures one row, in the process that it is called in; peak memory is that of the whole process so far."""
    import keras
    import tensorflow  # noqa: F401  (importing it is no part of the seconds)

    if job.method == "tfdatafree":
        with contextlib.suppress(ImportError):  # `compress_with_tfdatafree` tells; here it is for the time alone
            import tfdatafree  # noqa: F401

    subject = job.subject
    started, cpu_started = time.perf_counter(), time.process_time()
    model = keras.models.load_model(job.zoo / subject.file, compile=False)
    if job.logits:
        model = evaluate.logits_model(model)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    if job.method == "float":
        compressed, size = model, (job.zoo / subject.file).stat().st_size
    else:
        compress = _compressor(job, model)
        with contextlib.redirect_stdout(sys.stderr):  # converters print; the table has stdout for itself
            started, cpu_started = time.perf_counter(), time.process_time()
            compressed = compress()
        seconds, size = time.perf_counter() - started, len(compressed)
        cpu_seconds = time.process_time() - cpu_started
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on Linux; before the labelled images are read

    x, y = evaluate.load_labelled(job.zoo / subject.data, job.n)
    outputs = evaluate.predict(compressed, x, threads=job.threads, preprocess=subject.prepare)
    reference = np.load(job.reference) if job.reference.exists() else None
    if job.method == "float":
        np.save(job.reference, outputs)
    scores = evaluate.score(y, outputs, reference, evaluate.are_probabilities(outputs))
    return {**scores, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": kilobytes / 1024, "bytes": size}


def _compressor(job: Job, model):
    """Returns the call to be timed; calibration images are read before."""
    subject = job.subject
    if job.method == "tfdatafree":
        return lambda: compress_with_tfdatafree(model, job.recipe, subject.input_range)
    if job.method == "export":
        return lambda: export_float(model)
    if job.method == "ptq":
        images = subject.prepare(evaluate.load_labelled(job.zoo / subject.calibration, _CALIBRATION_IMAGES)[0])
    else:
        images = uniform_noise(subject, model.inputs[0].shape[1:])
    return lambda: compress_with_ptq(model, images)


def run_job(job: Job) -> dict:
    """Measures one row in a process of its own; a failure becomes {"error": its reason in one line}.

    The parent must stay small: on Linux a child's ru_maxrss starts at what its parent holds.
    """
    names = {"model": job.subject.name, "row": job.row_name}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        try:
            return {**names, **pool.submit(measure, job).result()}
        except Exception as error:  # noqa: BLE001  (whatever a compressor throws, the table goes on)
            lines = str(error).strip().splitlines() or ["no message"]
            return {**names, "error": f"{type(error).__name__}: {lines[0]}"}


COLUMNS = ("model", "row", "top-1 %", "agreement", "rel. error", "seconds", "peak MB", "bytes")


def cells(row: dict) -> list[str]:
    """Returns the texts of a row, one per column; of a failed row only the names and the reason."""
    if "error" in row:
        return [row["model"], row["row"], row["error"]]

    def text(key: str, form: str, mark: str = "") -> str:
        return format(row[key], form) + mark if key in row else "-"

    in_probabilities = "relative_error_probabilities" in row
    error = text("relative_error_probabilities", ".4f", " p") if in_probabilities else text("relative_error", ".4f")
    return [
        row["model"],
        row["row"],
        f"{100 * row['top1']:.2f}",
        text("agreement", ".4f"),
        error,
        text("seconds", ".1f"),
        text("peak_mb", ".0f"),
        text("bytes", ","),
    ]


def plain(texts: list[str] | tuple[str, ...]) -> str:
    """Returns a line of the table on the screen."""
    widths = (17, 17, 8, 9, 10, 8, 8, 11)
    parts = [
        text.ljust(width) if i < 2 else text.rjust(width)
        for i, (text, width) in enumerate(zip(texts, widths, strict=False))
    ]
    return "  ".join(parts)


def markdown(rows: list[dict]) -> str:
    """Returns the table in Markdown."""
    lines = [COLUMNS, ("---", "---", *("---:",) * (len(COLUMNS) - 2))]
    lines += [texts + [""] * (len(COLUMNS) - len(texts)) for texts in map(cells, rows)]
    return "".join(f"| {' | '.join(text.replace('|', '/') for text in texts)} |\n" for texts in lines)


def environment() -> dict:
    """Returns the versions that the figures depend on."""
    names = ("tensorflow", "keras", "ai-edge-litert", "numpy")
    return {name: importlib.metadata.version(name) for name in names} | {"cores": os.cpu_count()}


def _define_flags() -> None:
    default_zoo = Path(__file__).resolve().parents[2] / "shared" / "zoo"
    known = [subject.name for subject in SUBJECTS]
    flags.DEFINE_string("zoo", str(default_zoo), "Folder with the models and the labelled images.")
    flags.DEFINE_list("models", known, f"Of {', '.join(known)}.")
    flags.DEFINE_list("methods", list(METHODS), f"Of {', '.join(METHODS)}.")
    flags.DEFINE_list("recipes", ["int8"], "Recipes of tfdatafree.")
    flags.DEFINE_integer("n", None, "Score this many images per set, spread evenly; all if not given.", lower_bound=1)
    flags.DEFINE_integer("threads", 2, "Threads of the interpreter.", lower_bound=1)
    flags.DEFINE_bool("logits", False, "Strip the final softmax before anything else.")
    flags.DEFINE_string("json", None, "Also write the figures to this file.")
    flags.DEFINE_string("markdown", None, "Also write the table to this file.")


def _check(kind: str, given: list[str], known: list[str] | tuple[str, ...]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        raise ValueError(f"--{kind}={','.join(given)}: unknown {', '.join(unknown)}; choose of {', '.join(known)}.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected argument {argv[1]!r}.")
    values = flags.FLAGS
    try:
        _check("models", values.models, [subject.name for subject in SUBJECTS])
        _check("methods", values.methods, METHODS)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    zoo = Path(values.zoo)
    if not zoo.is_dir():
        print(f"error: There is no folder {str(zoo)!r}; give --zoo.", file=sys.stderr)
        return 1
    rows = []
    print(plain(COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        for subject in SUBJECTS:
            if subject.name not in values.models:
                continue
            # The float row comes first whatever is asked for: the others are compared with its outputs.
            for method in [m for m in METHODS if m in values.methods or m == "float"]:
                for recipe in values.recipes if method == "tfdatafree" else [None]:
                    job = Job(
                        subject=subject,
                        method=method,
                        recipe=recipe,
                        zoo=zoo,
                        n=values.n,
                        threads=values.threads,
                        logits=values.logits,
                        reference=Path(folder) / f"{subject.name}.npy",
                    )
                    rows.append(run_job(job))
                    print(plain(cells(rows[-1])), flush=True)
    record = {"environment": environment(), "n": values.n, "logits": values.logits, "rows": rows}
    if values.json:
        evaluate.write_text(values.json, json.dumps(record, indent=2) + "\n")
    if values.markdown:
        evaluate.write_text(values.markdown, markdown(rows))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _define_flags()
    app.run(main)
