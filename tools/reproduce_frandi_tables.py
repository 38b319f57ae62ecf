"""Prints Tables 1 and 2 of "FRanDI" (Sobolev et al.) for real models with labelled images.

    python tools/reproduce_frandi_tables.py --zoo=../shared/zoo --models=resnet20 --limit=1000 --markdown=tables.md

Table 1 is magnitude pruning. The largest weights of all convolution and dense kernels together stay, a part --kept:
    pruned      nothing else
    recovered   pruned, then Feature Regression on images made from BatchNorm statistics: no data
    on_real     pruned, then Feature Regression on as many real images, without their labels
    fine_tuned  pruned, then training on real images and their labels: the reference for the others
Table 2 is quantization, simulated, without data. --settings such as w4a8 give the bits of weights and activations:
    dfq         equalized, biases absorbed and corrected, a scale per tensor, ranges of 6 standard deviations (Nagel et al. 2019)
    aciq        a scale per channel, biases corrected, analytic clipping of activations (Banner et al. 2019)
    zeroq       a scale per channel, activation ranges from images made from BatchNorm statistics (Cai et al. 2020)
    rounded     a scale per channel, rounding with error feedback, biases and activation shifts corrected: the package's own
    recovered   rounded, then Feature Regression through straight-through rounding, on zeroq's images
The first three round to nearest. Weight grids reach from the smallest to the largest weight. No file is written. A final
softmax is removed first.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import command
import evaluate
import own_process
import zoo

TABLE_1 = ("pruned", "recovered", "on_real", "fine_tuned")
TABLE_2 = ("dfq", "aciq", "zeroq", "rounded", "recovered")
_SEED = 0
# The learning rate that fine-tuning starts with, usual for trained networks.
_LEARNING_RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What each method may use: images, steps of Feature Regression (None: the package's default), training epochs."""

    images: int = 256
    steps: int | None = None
    epochs: int = 10


def magnitude_pruned(model, kept: float):
    """Returns a copy of `model` whose smallest kernel weights, of all layers together, are 0; a part `kept` stays."""
    student = _copy(model)
    kernels = _kernels(student)
    sizes = np.abs(np.concatenate([np.ravel(kernel) for kernel in kernels]))
    smallest = np.quantile(sizes, 1 - kept)
    for kernel in kernels:
        values = np.asarray(kernel)
        kernel.assign(np.where(np.abs(values) >= smallest, values, 0))
    return student


def fine_tuned(student, x: np.ndarray, y: np.ndarray, epochs: int):
    """Returns a copy of `student`, which ends in logits, trained on labels; weights that are 0 stay 0."""
    import keras

    model = _copy(student)
    zeros = [(kernel, np.asarray(kernel) == 0) for kernel in _kernels(model)]

    class KeepZeros(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for kernel, zero in zeros:
                kernel.assign(np.where(zero, 0, kernel))

    batch = min(64, len(x))
    rate = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, epochs * -(-len(x) // batch))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    keras.utils.set_random_seed(_SEED)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0, callbacks=[KeepZeros()])
    return model


def recipes(weight_bits: int, activation_bits: int) -> dict:
    """Returns {method: Recipe} of Table 2; "recovered" starts from "rounded"."""
    from tfdatafree import Quantize, Recipe

    grids = {"weight_bits": weight_bits, "activation_bits": activation_bits, "symmetric_weights": False}
    nearest = grids | {"rounding": "nearest"}
    sigma = Quantize(ranges="k_sigma", range_source="gaussian", per_channel=False, **nearest)
    # With 5 bits or less, coarse scales cost more than clipping: the range is searched. From 6 bits, clipping costs more.
    ranges = "min_max" if activation_bits >= 6 else "search"
    return {
        "dfq": Recipe(equalize=True, equalize_caps="channel", absorb_bias=True, quantize=sigma),
        "aciq": Recipe(level_activations=False, quantize=Quantize(ranges="aciq", range_source="gaussian", **nearest)),
        "zeroq": Recipe(level_activations=False, quantize=Quantize(ranges="min_max", bias_correction=False, **nearest)),
        "rounded": Recipe(quantize=Quantize(ranges=ranges, activation_correction=True, **grids)),
    }


def _copy(model):
    import keras

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _kernels(model) -> list:
    import keras

    layers = (keras.layers.Conv2D, keras.layers.Dense)  # a DepthwiseConv2D is none of them: it is small, and stays
    return [layer.kernel for layer in model._flatten_layers() if type(layer) in layers]


class Tables:
    """Figures of one model; each method is one line of `pruned_row` or `quantized_row`.

    Args:
        model: A Keras model that ends in logits.
        x, y: Images that are counted, as they are read; `preprocess` makes them the model's input.
        real: (images as the model wants them, labels), not among those: for the references that need data.
        report: Called with (name of the row, method, top-1, seconds) after each figure.
    """

    def __init__(
        self,
        model,
        x: np.ndarray,
        y: np.ndarray,
        preprocess: Callable | None,
        real: tuple[np.ndarray, np.ndarray],
        input_range: tuple[float, float],
        effort: Effort,
        report: Callable[[str, str, float, float], None] = lambda *_: None,
    ):
        import tfdatafree

        self.model, self._real, self._range, self._effort, self._report = model, real, input_range, effort, report
        self._x, self._y, self._preprocess = x, y, preprocess
        self._images = tfdatafree.generate_images(
            model,
            effort.images,
            input_range=input_range,
            statistics="set",
            batch_size=min(effort.images, 32),
            seed=_SEED,
            verbose=0,
        ).images
        self.float_top1 = self._top1(model)

    def pruned_row(self, kept: float, methods: Sequence[str] = TABLE_1) -> dict:
        """Returns {"kept", "float", method: top-1, "seconds": {method: s}} of Table 1."""
        student = magnitude_pruned(self.model, kept)
        images, labels = self._real
        makers = {
            "pruned": lambda: student,
            "recovered": lambda: self._recovered(student, self._images),
            "on_real": lambda: self._recovered(student, images[: len(self._images)]),
            "fine_tuned": lambda: fine_tuned(student, images, labels, self._effort.epochs),
        }
        return {"kept": kept, **self._row(f"kept {kept}", makers, methods)}

    def quantized_row(self, setting: str, methods: Sequence[str] = TABLE_2) -> dict:
        """Returns {"setting", "float", method: top-1, "seconds": {method: s}} of Table 2."""
        import tfdatafree

        found = recipes(*bits_of(setting))

        def made(method: str):
            given = {"representative_data": self._images} if method == "zeroq" else {}
            return tfdatafree.compress(self.model, found[method], input_range=self._range, verbose=0, **given)

        makers = {method: lambda method=method: made(method).model for method in found}
        makers["recovered"] = lambda: self._recovered(made("rounded"), self._images)
        return {"setting": setting, **self._row(setting, makers, methods)}

    def _recovered(self, student, images: np.ndarray):
        import tfdatafree

        steps = {} if self._effort.steps is None else {"steps": self._effort.steps}
        return tfdatafree.feature_regression(student, self.model, images, verbose=0, **steps).model

    def _row(self, name: str, makers: dict[str, Callable], methods: Sequence[str]) -> dict:
        row: dict = {"float": self.float_top1, "seconds": {}}
        for method in methods:
            started = time.perf_counter()
            student = makers[method]()
            row["seconds"][method] = time.perf_counter() - started
            row[method] = self._top1(student)
            self._report(name, method, row[method], row["seconds"][method])
        return row

    def _top1(self, model) -> float:
        outputs = evaluate.predict(model, self._x, batch=100, preprocess=self._preprocess)
        return evaluate.score(self._y, outputs)["top1"]


def bits_of(setting: str) -> tuple[int, int]:
    """Returns (bits of weights, of activations) of a setting such as "w4a8"."""
    found = re.fullmatch(r"w([4-8])a([4-8])", setting)
    if not found:
        raise ValueError(f"--settings: {setting!r} is none; write w4a8 for 4-bit weights and 8-bit activations.")
    return int(found[1]), int(found[2])


def measure_subject(
    subject: zoo.Subject, folder: Path, limit: int | None, kept: list[float], settings: list[str], effort: Effort
) -> tuple[list[dict], list[dict]]:
    """Returns the rows of both tables for a model of the zoo, with progress on stderr."""

    def report(name: str, method: str, top1: float, seconds: float) -> None:
        print(f"{subject.name}, {name}, {method}: {100 * top1:.2f} %, {seconds:.0f} s", file=sys.stderr, flush=True)

    model = evaluate.logits_model(subject.load_model(folder))
    x, y = subject.load_labelled(folder, limit)
    real = subject.load_calibration(folder)
    tables = Tables(model, x, y, subject.prepare, real, subject.input_range, effort, report)
    names = {"model": subject.name, "n": len(y)}
    pruned = [{**names, **tables.pruned_row(part)} for part in kept]
    return pruned, [{**names, **tables.quantized_row(setting)} for setting in settings]


def markdown(pruned: list[dict], quantized: list[dict]) -> str:
    """Returns both tables of top-1 percentages in Markdown; one without rows is left out."""
    parts = [_markdown(rows, *how) for rows, how in ((pruned, ("kept", TABLE_1)), (quantized, ("setting", TABLE_2)))]
    return "\n".join(part for part in parts if part)


def _markdown(rows: list[dict], key: str, methods: Sequence[str]) -> str:
    if not rows:
        return ""
    lines = [["model", key, "float", *methods], ["---", "---", *["---:"] * (len(methods) + 1)]]
    lines += [
        [row["model"], str(row[key]), *(f"{100 * row[name]:.2f}" for name in ("float", *methods))] for row in rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _define_flags() -> None:
    zoo.define_flags(models=["resnet20"])
    flags.DEFINE_list("kept", ["0.8", "0.5", "0.2"], "Table 1: parts of the weights that stay; empty for none.")
    flags.DEFINE_list("settings", ["w5a5", "w4a4", "w4a8"], "Table 2: bits of weights and activations; empty for none.")
    flags.DEFINE_integer("images", 256, "Images for Feature Regression.", lower_bound=2)
    flags.DEFINE_integer("steps", None, "Of Feature Regression; the package's default if not given.", lower_bound=1)
    flags.DEFINE_integer("epochs", 10, "Of fine-tuning on real images.", lower_bound=1)
    flags.DEFINE_integer(
        "limit", None, "Score this many images per set, spread evenly; all if not given.", lower_bound=1
    )
    command.define_outputs("tables")


def _parts(texts: list[str]) -> list[float]:
    try:
        parts = [float(text) for text in texts if text]
    except ValueError:
        parts = [0.0]
    if not all(0 < part < 1 for part in parts):
        raise ValueError(f"--kept={','.join(texts)}: give parts of the weights between 0 and 1, e.g. 0.8,0.5.")
    return parts


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        subjects = zoo.choose_subjects(values.models)
        kept, settings = _parts(values.kept), [setting for setting in values.settings if setting]
        for setting in settings:
            bits_of(setting)
        folder = zoo.find_folder(values.zoo)
    effort = Effort(images=values.images, steps=values.steps, epochs=values.epochs)
    pruned: list[dict] = []
    quantized: list[dict] = []
    for subject in subjects:
        found = own_process.run(measure_subject, subject, folder, values.limit, kept, settings, effort)
        pruned, quantized = pruned + found[0], quantized + found[1]
        print(markdown(*found), flush=True)
    record = {
        "environment": command.environment(),
        "limit": values.limit,
        "images": values.images,
        "epochs": values.epochs,
        "table_1": pruned,
        "table_2": quantized,
    }
    command.write_json(values.json, record)
    command.write_text(values.markdown, markdown(pruned, quantized))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    command.run(main, _define_flags)
