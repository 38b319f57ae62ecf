"""Measures top-1 against sparsity, for every way of pruning without data, on trained models and labelled images.

    python tools/prune_curves.py --zoo=../shared/zoo --models=resnet20 --json=curves.json --markdown=curves.md --plot=curves.png

The methods are those of `tfdatafree.Prune`, each as in its paper, and two ablations of Horton et al. 2021:
    auto, obs, energy   with all corrections
    str                 with equalization across layers (as in the paper), least squares on the weights that stay,
                        bias correction and restored variances
    str-S               str on N(0, 1) inputs
    str-SE              str on N(0, 1) inputs and without equalization
    budget              str's sparsity per layer and the original weights, corrected in the same way
    global, global_unfolded, uniform, erk, erk_lwdf     magnitudes, with analytic bias correction alone
    channel             removes whole channels; its sparsity also counts depthwise kernels
The tool scores the pruned float network as a Keras model, in batches. This is several times faster than LiteRT, and a float
file computes the same to within float32 rounding. Sparsity is that of convolution and dense kernels; depthwise kernels
stay dense. Seconds are those of the whole compression with export; other work on the machine lengthens them.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import command
import evaluate
import zoo

# name: (options of Prune, equalize)
METHODS = {
    "auto": ({"method": "auto"}, False),
    "obs": ({"method": "obs"}, False),
    "energy": ({"method": "energy"}, False),
    "str": ({"method": "str"}, True),
    "str-S": ({"method": "str", "inputs": "standard"}, True),
    "str-SE": ({"method": "str", "inputs": "standard"}, False),
    "budget": ({"method": "budget"}, True),
    "global": ({"method": "global", "restore": False}, False),
    "global_unfolded": ({"method": "global_unfolded", "restore": False}, False),
    "uniform": ({"method": "uniform", "restore": False}, False),
    "erk": ({"method": "erk", "restore": False}, False),
    "erk_lwdf": ({"method": "erk_lwdf", "restore": False}, False),
    "channel": ({"method": "channel"}, False),
}
_BATCH = 50


def compress(model, method: str, sparsity: float, input_range: tuple[float, float], seed: int):
    """Compresses a model to a pruned float network, by `method` of METHODS. Only this function calls tfdatafree."""
    import tfdatafree

    options, equalize = METHODS[method]
    recipe = tfdatafree.Recipe(
        name=method, quantize=None, equalize=equalize, prune=tfdatafree.Prune(sparsity=sparsity, **options)
    )
    return tfdatafree.compress(model, recipe, input_range=input_range, seed=seed, verbose=0)


def predict(model, x: np.ndarray, prepare) -> np.ndarray:
    """Returns the outputs of a Keras model, computed batch by batch."""
    return np.concatenate(
        [np.asarray(model.predict_on_batch(prepare(x[at : at + _BATCH]))) for at in range(0, len(x), _BATCH)]
    )


def measure(subject: zoo.Subject, folder: Path, methods: list[str], sparsities: list[float], limit, seed: int):
    """Yields one row per method and sparsity; the float model's row first."""
    model = subject.load_model(folder)
    x, y = subject.load_labelled(folder, limit)
    reference = predict(model, x, subject.prepare)
    yield {"model": subject.name, "method": "float", "sparsity": 0.0, **evaluate.score(y, reference)}
    for method in methods:
        for sparsity in sparsities:
            started = time.perf_counter()
            row = {"model": subject.name, "method": method, "sparsity": sparsity}
            try:
                compressed = compress(model, method, sparsity, subject.input_range, seed)
                seconds = time.perf_counter() - started
                outputs = predict(compressed.model, x, subject.prepare)
            except Exception as error:  # noqa: BLE001  (whatever one method throws, the table goes on)
                yield {**row, "error": f"{type(error).__name__}: {error}"}
                continue
            pruning = compressed.report.pruning
            scores = evaluate.score(y, outputs, reference, evaluate.are_probabilities(outputs))
            yield {
                **row,
                **scores,
                "seconds": seconds,
                "taken": pruning.method,
                "measured_sparsity": pruning.sparsity,
                "layers": pruning.layers,
            }


def markdown(rows: list[dict], sparsities: list[float]) -> str:
    """Returns a table per model, a row per method, a column per sparsity: top-1 in percent / agreement with float."""
    text = ""
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        whole = next(row["top1"] for row in mine if row["method"] == "float")
        text += f"| {model}, float {100 * whole:.2f} % | " + " | ".join(f"{100 * s:.0f} %" for s in sparsities) + " |\n"
        text += "|---|" + "---:|" * len(sparsities) + "\n"
        for method in dict.fromkeys(row["method"] for row in mine if row["method"] != "float"):
            cells = []
            for sparsity in sparsities:
                row = next(r for r in mine if r["method"] == method and r["sparsity"] == sparsity)
                cells.append("failed" if "error" in row else f"{100 * row['top1']:.2f} / {row['agreement']:.3f}")
            text += f"| {method} | " + " | ".join(cells) + " |\n"
        text += "\n"
    return text


def plot(rows: list[dict], path: str) -> None:
    """Draws top-1 against sparsity, one panel per model. Needs matplotlib (pip install matplotlib)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row["model"] for row in rows))
    # A method has the same colour in every panel.
    pairs = pyplot.get_cmap("tab20").colors
    colours = dict(zip(METHODS, pairs[0:14:2] + pairs[16::2] + pairs[1:14:2], strict=False))
    figure, axes = pyplot.subplots(1, len(models), figsize=(5.5 * len(models), 4.5), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        mine = [row for row in rows if row["model"] == model and "error" not in row]
        whole = next(row["top1"] for row in mine if row["method"] == "float")
        axis.axhline(100 * whole, color="grey", linestyle=":", label="float")
        for method in dict.fromkeys(row["method"] for row in mine if row["method"] != "float"):
            points = sorted((row["sparsity"], row["top1"]) for row in mine if row["method"] == method)
            ours = method in ("auto", "obs")
            axis.plot(
                [100 * s for s, _ in points], [100 * t for _, t in points], marker="o", markersize=3,
                linewidth=2.5 if ours else 1, color=colours[method], label=method,
            )  # fmt: skip
        axis.set(title=model, xlabel="zeros among convolution and dense weights, %", ylabel="top-1, %")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _define_flags() -> None:
    zoo.define_flags(models=list(zoo.SUBJECTS))
    flags.DEFINE_list("methods", list(METHODS), f"Of {', '.join(METHODS)}.")
    flags.DEFINE_list("sparsities", [str(s / 10) for s in range(3, 10)], "Parts of zeros, each in [0, 1).")
    flags.DEFINE_integer(
        "limit", None, "Score this many images per set, spread evenly; all if not given.", lower_bound=1
    )
    flags.DEFINE_integer("seed", 0, "Of the generated inputs.", lower_bound=0)
    command.define_outputs("tables")
    flags.DEFINE_string("plot", None, "Also draw the curves into this .png.")


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        subjects = zoo.choose_subjects(values.models)
        command.choose("methods", values.methods, METHODS)
        sparsities = [float(text) for text in values.sparsities]
        if not all(0 <= sparsity < 1 for sparsity in sparsities):
            raise ValueError(f"--sparsities={','.join(values.sparsities)}: each must be at least 0 and less than 1.")
        folder = zoo.find_folder(values.zoo)
    rows: list[dict] = []
    for subject in subjects:
        for row in measure(subject, folder, values.methods, sparsities, values.limit, values.seed):
            rows.append(row)
            shown = row.get("error") or f"top-1 {100 * row['top1']:6.2f} %  {row.get('taken', '')}"
            print(f"{row['model']:17} {row['method']:16} {100 * row['sparsity']:5.1f} %  {shown}", flush=True)
            # Written after each row: a long run that is stopped leaves what it has measured.
            record = {"environment": command.environment(), "limit": values.limit, "rows": rows}
            command.write_json(values.json, record)
    table = markdown(rows, sparsities)
    print(table)
    command.write_text(values.markdown, table)
    if values.plot:
        plot(rows, values.plot)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command.run(main, _define_flags)
