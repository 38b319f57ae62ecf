"""Prints Table I of "Layer-Wise Data-Free CNN Compression" (Horton et al. 2021) for real models with labelled images.

    python tools/reproduce_lwdf_table1.py --zoo=../shared/zoo --models=mobilenet_v2 --limit=300 --markdown=table.md

Top-1 at 8, 7, 6, 5 and 4 bits, weights and activations alike, simulated: one asymmetric grid per weight tensor and per
activation tensor, quantizers behind skip connections. Every method is a Recipe, made without any data:
    ours     the package's best at this width: rounding with error feedback between the buffers of assumption-free
             equalization, analytic bias correction, ranges from generated images, activation shifts corrected
    lwdf     the paper's own: assumption-free equalization, absorption, nearest rounding, bias correction, ranges searched
             on layer-wise samples. (It sets ranges, corrects biases and sets ranges again; the correction restores the
             statistics that the samples are drawn from, so that the second search is the only one that counts.)
    dfq      equalization, absorption, bias correction, ranges of 6 standard deviations (Nagel et al. 2019)
    aciq     lwdf with analytic clipping in place of the search (Banner et al. 2019)
    min_max  lwdf with the extremes of the samples in place of the search
    ar       lwdf with learned rounding, on generated layer inputs (AdaRound, Nagel et al. 2020)
Where the paper replaces ReLU6 by ReLU, here each channel keeps its cap: the function is the model's own. A softmax at the end
is taken off first, as the paper's networks end in logits.

Ablations, of every method: --no_equalize, --standard_inputs (N(0, 1) in place of BatchNorm statistics), --no_correction.
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import benchmark
import evaluate

BITS = (8, 7, 6, 5, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is left out of every method."""

    equalize: bool = True
    standard_inputs: bool = False
    correction: bool = True


def recipes(bits: int, ablation: Ablation = Ablation()) -> dict:
    """Returns {method: its Recipe} at `bits`."""
    from tfdatafree import Quantize, Recipe

    layerwise = "standard" if ablation.standard_inputs else "gaussian"
    grids = {
        "weight_bits": bits,
        "activation_bits": bits,
        "per_channel": False,
        "symmetric_weights": False,
        "bias_correction": "analytic" if ablation.correction else False,
    }

    def paper(ranges: str = "search", **options) -> Recipe:
        options = {"rounding": "nearest", "equalized_rounding": ablation.equalize} | grids | options
        return Recipe(
            absorb_bias=True,
            level_activations=False,
            quantize=Quantize(ranges=ranges, range_source=layerwise, **options),
        )

    # A step of 5 bits costs more than what is cut off the ends; from 6 bits on the ends cost more.
    ours = Quantize(
        rounding="feedback",
        equalized_rounding=ablation.equalize,
        ranges="min_max" if bits >= 6 else "search",
        range_source="standard" if ablation.standard_inputs else "images",
        activation_correction=ablation.correction,
        **grids,
    )
    dfq = paper("k_sigma", equalized_rounding=False)
    return {
        "ours": Recipe(level_activations=False, quantize=ours),
        "lwdf": paper(),
        "dfq": dataclasses.replace(dfq, equalize=ablation.equalize, equalize_caps="channel"),
        "aciq": paper("aciq"),
        "min_max": paper("min_max"),
        "ar": paper(rounding="adaround"),
    }


METHODS = ("ours", "lwdf", "dfq", "aciq", "min_max", "ar")


def measure(
    model, x: np.ndarray, y: np.ndarray, input_range: tuple[float, float], methods, widths, ablation: Ablation, report
) -> list[dict]:
    """Returns one row per width: {"bits", method: top-1, "agreement": {method: agreement with float}}.

    Args:
        model: A Keras model that ends in logits.
        x: Its inputs, prepared.
        report: Called with (row, method, seconds) after each figure.
    """
    import tfdatafree

    reference = evaluate.predict(model, x)
    rows = []
    for bits in widths:
        row: dict = {"bits": bits, "float": evaluate.score(y, reference)["top1"], "agreement": {}}
        for method in methods:
            started = time.perf_counter()
            recipe = recipes(bits, ablation)[method]
            compressed = tfdatafree.compress(model, recipe, input_range=input_range, verbose=0)
            scores = evaluate.score(y, evaluate.predict(compressed.model, x), reference)
            row[method], row["agreement"][method] = scores["top1"], scores["agreement"]
            report(row, method, time.perf_counter() - started)
        rows.append(row)
    return rows


def measure_subject(subject: benchmark.Subject, zoo: Path, limit: int | None, methods, widths, ablation) -> list[dict]:
    """`measure` on a model of the zoo, with progress on stderr."""
    import keras

    model = evaluate.logits_model(keras.models.load_model(zoo / subject.file, compile=False))
    x, y = evaluate.load_labelled(zoo / subject.data, limit)

    def report(row: dict, method: str, seconds: float) -> None:
        drop = 100 * (row["float"] - row[method])
        text = f"{subject.name}, {row['bits']} bits, {method}: {100 * row[method]:.2f} % ({drop:.2f} below float)"
        print(f"{text}, {seconds:.0f} s", file=sys.stderr, flush=True)

    rows = measure(model, subject.prepare(x), y, subject.input_range, methods, widths, ablation, report)
    return [{"model": subject.name, "n": len(y), **row} for row in rows]


def table(rows: list[dict], methods, form: Callable[[list[str]], str]) -> str:
    """Returns the table of top-1 percentages, a line per model and width, each line by `form`."""
    lines = [["model", "bits", "float", *methods]]
    for row in rows:
        figures = [f"{100 * row[name]:.2f}" for name in ("float", *methods)]
        lines.append([row["model"], str(row["bits"]), *figures])
    return "".join(form(line) + "\n" for line in lines)


def plain(line: list[str]) -> str:
    """Returns a line of the table on the screen."""
    return line[0].ljust(17) + "".join(text.rjust(9) for text in line[1:])


def markdown(rows: list[dict], methods) -> str:
    """Returns the table in Markdown."""
    lines = table(rows, methods, lambda line: f"| {' | '.join(line)} |").splitlines(keepends=True)
    return "".join([lines[0], "|---|" + "---:|" * (len(methods) + 2) + "\n", *lines[1:]])


def _define_flags() -> None:
    default_zoo = Path(__file__).resolve().parents[2] / "shared" / "zoo"
    known = [subject.name for subject in benchmark.SUBJECTS]
    flags.DEFINE_string("zoo", str(default_zoo), "Folder with the models and the labelled images.")
    flags.DEFINE_list("models", known, f"Of {', '.join(known)}.")
    flags.DEFINE_list("methods", list(METHODS), f"Of {', '.join(METHODS)}.")
    flags.DEFINE_list("bits", [str(bits) for bits in BITS], "Of 8, 7, 6, 5, 4.")
    flags.DEFINE_integer(
        "limit", None, "Score this many images per set, spread evenly; all if not given.", lower_bound=1
    )
    flags.DEFINE_bool("no_equalize", False, "Ablation: no equalization.")
    flags.DEFINE_bool("standard_inputs", False, "Ablation: N(0, 1) inputs in place of BatchNorm statistics.")
    flags.DEFINE_bool("no_correction", False, "Ablation: no bias correction.")
    flags.DEFINE_string("json", None, "Also write the figures to this file.")
    flags.DEFINE_string("markdown", None, "Also write the table to this file.")


def _choices(kind: str, given: list[str], known) -> list[str]:
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        raise ValueError(f"--{kind}={','.join(given)}: unknown {', '.join(unknown)}; choose of {', '.join(known)}.")
    return [name for name in known if name in given]


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected argument {argv[1]!r}.")
    values = flags.FLAGS
    try:
        models = _choices("models", values.models, [subject.name for subject in benchmark.SUBJECTS])
        methods = _choices("methods", values.methods, METHODS)
        widths = [int(bits) for bits in _choices("bits", values.bits, [str(bits) for bits in BITS])]
        zoo = Path(values.zoo)
        if not zoo.is_dir():
            raise ValueError(f"There is no folder {str(zoo)!r}; give --zoo.")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    ablation = Ablation(
        equalize=not values.no_equalize,
        standard_inputs=values.standard_inputs,
        correction=not values.no_correction,
    )
    rows: list[dict] = []
    print(plain(["model", "bits", "float", *methods]), flush=True)
    for subject in [subject for subject in benchmark.SUBJECTS if subject.name in models]:
        # A process of its own gives its memory back.
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            job = pool.submit(measure_subject, subject, zoo, values.limit, methods, widths, ablation)
            found = job.result()
        rows += found
        print(table(found, methods, plain).split("\n", 1)[1], end="", flush=True)
    record = {
        "environment": benchmark.environment(),
        "limit": values.limit,
        "ablation": dataclasses.asdict(ablation),
        "rows": rows,
    }
    if values.json:
        evaluate.write_text(values.json, json.dumps(record, indent=2) + "\n")
    if values.markdown:
        evaluate.write_text(values.markdown, markdown(rows, methods))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _define_flags()
    app.run(main)
