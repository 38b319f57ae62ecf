"""Measures tfdatafree against post-training quantization with data, on real models with real labelled images.

    python tools/benchmark.py --zoo=../shared/zoo --models=resnet20 --n=1000 --json=table.json --markdown=table.md

Per model, one row each:
    float              the Keras model itself: the reference of the other rows
    tfdatafree:RECIPE  tfdatafree.compress, without any data; one row per recipe of --recipes
    ptq                the TFLite converter, full int8, calibrated with 100 real images
    ptq_noise          the same, calibrated with uniform noise over the input range
    export             model.export(format="litert"), the float file: what any pipeline pays at least
tools/evaluate.py defines top-1, agreement and relative error; they are over the whole set. "p" marks an error of
probabilities, where model and file end in softmax. --logits removes the softmax before compression.

Seconds are those of the compression alone, without imports and loading; the float row's are of loading. They are wall
time, which other work on the machine lengthens. The JSON also has `cpu_seconds`, over all threads. Peak MB is the
resident memory of the row's own process until then. The float row shows what TensorFlow and the model need anyway.
"""

import contextlib
import dataclasses
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import command
import evaluate
import own_process
import zoo

_CALIBRATION_IMAGES = 100
_NOISE_SEED = 0


METHODS = ("float", "tfdatafree", "ptq", "ptq_noise", "export")


def compress_with_tfdatafree(model, recipe: str, input_range: tuple[float, float]) -> bytes:
    """Returns the `.tflite` that tfdatafree makes: the only place that calls it."""
    import tfdatafree

    return tfdatafree.compress(model, recipe, input_range=input_range, verbose=0).tflite


def compress_with_ptq(model, *calibration: np.ndarray) -> bytes:
    """Returns the full int8 `.tflite` of the TFLite converter, calibrated with a float32 array (n, *shape) per input."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [example[np.newaxis] for example in examples] for examples in zip(*calibration, strict=True)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def export_float(model) -> bytes:
    """Returns the float `.tflite` of Keras' own export."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.tflite"
        model.export(path, format="litert", verbose=False)
        return path.read_bytes()


def uniform_noise(subject: zoo.Subject, shape: tuple[int, ...]) -> np.ndarray:
    """Returns `_CALIBRATION_IMAGES` float32 images of `shape`, uniform over the input range."""
    low, high = subject.input_range
    return np.random.default_rng(_NOISE_SEED).uniform(low, high, (_CALIBRATION_IMAGES, *shape)).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One row to measure. The float row writes its outputs to `reference`; the others are compared with them."""

    subject: zoo.Subject
    method: str
    recipe: str | None
    folder: Path
    n: int | None
    threads: int
    logits: bool
    reference: Path

    @property
    def row_name(self) -> str:
        return f"{self.method}:{self.recipe}" if self.recipe else self.method


def measure(job: Job) -> dict:
    """Measures one row, in the process that it is called in; peak memory is that of the whole process so far."""
    import keras  # noqa: F401
    import tensorflow  # noqa: F401  (before the clock starts)

    if job.method == "tfdatafree":
        with contextlib.suppress(
            ImportError
        ):  # imported before the clock starts; `compress_with_tfdatafree` raises the error
            import tfdatafree  # noqa: F401

    subject = job.subject
    started, cpu_started = time.perf_counter(), time.process_time()
    model = subject.load_model(job.folder)
    if job.logits:
        model = evaluate.logits_model(model)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    if job.method == "float":
        compressed, size = model, (job.folder / subject.file).stat().st_size
    else:
        compress = _compressor(job, model)
        with contextlib.redirect_stdout(sys.stderr):  # converters print; stdout is for the table
            started, cpu_started = time.perf_counter(), time.process_time()
            compressed = compress()
        seconds, size = time.perf_counter() - started, len(compressed)
        cpu_seconds = time.process_time() - cpu_started
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on Linux; before the labelled images are read

    x, y = subject.load_labelled(job.folder, job.n)
    outputs = evaluate.predict(compressed, x, threads=job.threads, preprocess=subject.prepare)
    reference = np.load(job.reference) if job.reference.exists() else None
    if job.method == "float":
        np.save(job.reference, outputs)
    scores = evaluate.score(y, outputs, reference, evaluate.are_probabilities(outputs))
    return {**scores, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": kilobytes / 1024, "bytes": size}


def _compressor(job: Job, model):
    """Returns the call to be timed. Calibration images are read here, before the clock starts."""
    subject = job.subject
    if job.method == "tfdatafree":
        return lambda: compress_with_tfdatafree(model, job.recipe, subject.input_range)
    if job.method == "export":
        return lambda: export_float(model)
    if job.method == "ptq":
        images = subject.load_calibration(job.folder, _CALIBRATION_IMAGES)[0]
    else:
        images = uniform_noise(subject, model.inputs[0].shape[1:])
    return lambda: compress_with_ptq(model, images)


def run_job(job: Job) -> dict:
    """Measures one row in a process of its own; a failure becomes {"error": its reason in one line}."""
    return {"model": job.subject.name, "row": job.row_name, **own_process.run_row(measure, job)}


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


def _define_flags() -> None:
    zoo.define_flags(models=list(zoo.SUBJECTS))
    flags.DEFINE_list("methods", list(METHODS), f"Of {', '.join(METHODS)}.")
    flags.DEFINE_list("recipes", ["int8"], "Recipes of tfdatafree.")
    flags.DEFINE_integer("n", None, "Score this many images per set, spread evenly; all if not given.", lower_bound=1)
    flags.DEFINE_integer("threads", 2, "Threads of the interpreter.", lower_bound=1)
    flags.DEFINE_bool("logits", False, "Strip the final softmax before anything else.")
    command.define_outputs()


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        subjects = zoo.choose_subjects(values.models)
        methods = command.choose("methods", values.methods, METHODS)
        folder = zoo.find_folder(values.zoo)
    rows = []
    print(plain(COLUMNS))
    with tempfile.TemporaryDirectory() as references:
        for subject in subjects:
            # The float row always comes first: the others are compared with its outputs.
            for method in ["float", *(name for name in methods if name != "float")]:
                for recipe in values.recipes if method == "tfdatafree" else [None]:
                    job = Job(
                        subject=subject,
                        method=method,
                        recipe=recipe,
                        folder=folder,
                        n=values.n,
                        threads=values.threads,
                        logits=values.logits,
                        reference=Path(references) / f"{subject.name}.npy",
                    )
                    rows.append(run_job(job))
                    print(plain(cells(rows[-1])), flush=True)
    record = {"environment": command.environment(), "n": values.n, "logits": values.logits, "rows": rows}
    command.write_json(values.json, record)
    command.write_text(values.markdown, markdown(rows))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    command.run(main, _define_flags)
