"""Prints Table I of "Layer-Wise Data-Free CNN Compression" (Horton et al. 2021) for real models with labelled images.

    python tools/reproduce_lwdf_table1.py --zoo=../shared/zoo --models=mobilenet_v2 --limit=300 --markdown=table.md

The table has top-1 at 8, 7, 6, 5 and 4 bits, the same for weights and activations. Quantization is simulated: each weight
tensor and each activation tensor has one asymmetric grid, with quantizers behind skip connections. Every method is a
Recipe and needs no data:
    ours     the package's best at this width: rounding with error feedback between the buffers of assumption-free
             equalization, analytic bias correction, ranges from generated images, activation shifts corrected
    lwdf     the paper's own: assumption-free equalization, absorption, nearest rounding, bias correction, ranges searched
             on layer-wise samples
    dfq      equalization, absorption, bias correction, ranges of 6 standard deviations (Nagel et al. 2019)
    aciq     lwdf with analytic clipping in place of the search (Banner et al. 2019)
    min_max  lwdf with the extremes of the samples in place of the search
    ar       lwdf with learned rounding, on generated layer inputs (AdaRound, Nagel et al. 2020)
The paper searches ranges before and after it corrects biases. Here they are searched once: the correction restores the
statistics that the samples are drawn from, and the second search replaces the first.

The paper replaces ReLU6 by ReLU. Here each channel keeps its cap, so that the function stays the model's own. A final softmax
is removed first, because the paper's networks end in logits.

Ablations, of every method: --no_equalize, --standard_inputs (N(0, 1) in place of BatchNorm statistics), --no_correction.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import command
import evaluate
import own_process
import zoo

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

    # With 5 bits or less, coarse scales cost more than clipping: the range is searched. From 6 bits, clipping costs more.
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


def measure_subject(subject: zoo.Subject, folder: Path, limit: int | None, methods, widths, ablation) -> list[dict]:
    """Calls `measure` on a model of the zoo, with progress on stderr."""
    model = evaluate.logits_model(subject.load_model(folder))
    x, y = subject.load_labelled(folder, limit)

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
    zoo.define_flags(models=list(zoo.SUBJECTS))
    flags.DEFINE_list("methods", list(METHODS), f"Of {', '.join(METHODS)}.")
    flags.DEFINE_list("bits", [str(bits) for bits in BITS], "Of 8, 7, 6, 5, 4.")
    flags.DEFINE_integer(
        "limit", None, "Score this many images per set, spread evenly; all if not given.", lower_bound=1
    )
    flags.DEFINE_bool("no_equalize", False, "Ablation: no equalization.")
    flags.DEFINE_bool("standard_inputs", False, "Ablation: N(0, 1) inputs in place of BatchNorm statistics.")
    flags.DEFINE_bool("no_correction", False, "Ablation: no bias correction.")
    command.define_outputs()


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        subjects = zoo.choose_subjects(values.models)
        methods = command.choose("methods", values.methods, METHODS)
        widths = [int(bits) for bits in command.choose("bits", values.bits, [str(bits) for bits in BITS])]
        folder = zoo.find_folder(values.zoo)
    ablation = Ablation(
        equalize=not values.no_equalize,
        standard_inputs=values.standard_inputs,
        correction=not values.no_correction,
    )
    rows: list[dict] = []
    print(plain(["model", "bits", "float", *methods]), flush=True)
    for subject in subjects:
        found = own_process.run(measure_subject, subject, folder, values.limit, methods, widths, ablation)
        rows += found
        print(table(found, methods, plain).split("\n", 1)[1], end="", flush=True)
    record = {
        "environment": command.environment(),
        "limit": values.limit,
        "ablation": dataclasses.asdict(ablation),
        "rows": rows,
    }
    command.write_json(values.json, record)
    command.write_text(values.markdown, markdown(rows, methods))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    command.run(main, _define_flags)
