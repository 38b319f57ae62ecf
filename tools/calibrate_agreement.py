"""Fits the estimate of real agreement (`tfdatafree/numerics/expected_agreement.py`), and measures how far off it is.

    python tools/calibrate_agreement.py --world=../shared/zoo2 --json=agreement.json --markdown=agreement.md
    python tools/calibrate_agreement.py --rows=agreement.json --plot=agreement.png     # fits again, measures nothing

Classifiers are compressed by several recipes. LiteRT runs each file, and Keras its float model, on at most --limit real inputs.
The share of equal decisions is the real agreement. It serves to fit and to judge; nothing of it reaches a compression. Networks
are those of the zoo, classifiers of the folder --world with inputs beside them (as `tools/world.py` takes it), and those of
`tools/trained_networks.py`, which are trained on the spot.

Coefficients minimise the absolute error of the share, each network weighted by the square root of its number of files. Errors in
the table are of networks held out: each is estimated by coefficients fitted on all others. The half width of the interval is the
smallest that holds the real share of the wanted part of the files, again by the coefficients of the other networks. A share that
was counted on n inputs is known to half an input. Rows are written after each file, and a file that has a row is not made again.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import flags
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri

sys.path.insert(0, str(Path(__file__).resolve().parent))
import command
import trained_networks
import world
import zoo

# The part of the files whose real share the interval shall hold.
COVERAGE = 0.92
_SMOOTHING, _RIDGE = 1e-4, 1e-3


def recipes() -> dict:
    """Name -> recipe."""
    from tfdatafree import Prune, Quantize, Recipe

    def pruned(sparsity: float, method: str, **options):
        return Recipe(prune=Prune(sparsity=sparsity, method=method), quantize=Quantize(**options))

    return {
        "int8": Recipe(),
        "int8_per_tensor": "int8_per_tensor",
        "dfq": "dfq",
        "nearest, per tensor": Recipe(quantize=Quantize(rounding="nearest", bias_correction=False, per_channel=False)),
        "w4": Recipe(quantize=Quantize(weight_bits=4)),
        "w4, nearest": Recipe(quantize=Quantize(weight_bits=4, rounding="nearest", bias_correction=False)),
        "w4, per tensor": Recipe(quantize=Quantize(weight_bits=4, per_channel=False)),
        "w5, nearest": Recipe(quantize=Quantize(weight_bits=5, rounding="nearest")),
        "30 % zeros": pruned(0.3, "global"),
        "50 % zeros": pruned(0.5, "global"),
        "70 % zeros": pruned(0.7, "global"),
        "50 % zeros, w4": pruned(0.5, "uniform", weight_bits=4),
    }


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model (a Keras model or a path), real inputs `x` for it, and the `input_range` that compression is told."""

    name: str
    model: object
    x: np.ndarray
    input_range: tuple[float, float]


def classifiers(zoo_folder: Path, world_folder: Path | None, limit: int) -> Iterator[Classifier]:
    """The networks, small ones first."""
    for name, network in trained_networks.NETWORKS.items():
        x, y, others = trained_networks.make_data(network)
        yield Classifier(name, trained_networks.train(network, x, y), others[:limit], (0.0, 1.0))
    for path in sorted(world_folder.iterdir()) if world_folder is not None else ():
        if path.suffix in (".keras", ".h5") and path.with_suffix(".npz").exists():
            (values,) = world.read_inputs(path.with_suffix(".npz")).values()
            yield Classifier(path.stem, path, values[:limit].astype(np.float32), world.value_range(values))
    for name, subject in zoo.SUBJECTS.items():
        x, _ = subject.load_labelled(zoo_folder, limit)
        x = subject.prepare(x).astype(np.float32)
        yield Classifier(name, subject.load_model(zoo_folder), x, subject.input_range)


class Measured:
    """A classifier with what its float model gives on generated and real inputs; None for `classes` if it has none."""

    def __init__(self, classifier: Classifier):
        from tfdatafree.canonical.form import canonical_form
        from tfdatafree.inputs.input_range import find_input_ranges
        from tfdatafree.model.graph import Graph
        from tfdatafree.model.load import load
        from tfdatafree.report.expected import inputs_to_estimate
        from tfdatafree.report.outputs import output_forms

        graph = canonical_form(Graph.from_keras(load(classifier.model))).graph
        self.classifier = classifier
        self.classes = len(graph.outputs) == 1 and output_forms(graph)[0].has_classes
        if self.classes:
            self._predict = graph.run_in_batches
            self._generated = inputs_to_estimate(graph, find_input_ranges(graph, classifier.input_range, 0))
            self._real = self._predict([classifier.x])[0].argmax(-1)

    def row(self, name: str, recipe) -> dict:
        """The row of one recipe: real agreement, agreement on generated inputs, and the estimate's features."""
        import tfdatafree
        from tfdatafree.numerics.expected_agreement import features
        from tfdatafree.report.expected import class_scores, scores_of_file

        made = tfdatafree.compress(self.classifier.model, recipe, input_range=self.classifier.input_range, verbose=0)
        (found,) = world.run_file(made.tflite, [self.classifier.x])
        float_scores, scores = (
            class_scores(run(self._generated)[0]) for run in (self._predict, scores_of_file(made.tflite))
        )
        return {
            "model": self.classifier.name,
            "recipe": name,
            "n": len(found),
            "real": float(np.mean(found.argmax(-1) == self._real)),
            "generated": float(np.mean(scores.argmax(-1) == float_scores.argmax(-1))),
            "features": features(float_scores, scores),
        }


def fit(x: np.ndarray, y: np.ndarray, models: np.ndarray) -> np.ndarray:
    """The coefficients (features + 1,) for features x (files, features) and real shares y (files,)."""
    design = np.column_stack([np.ones(len(x)), x])
    counts = {model: np.sum(models == model) for model in set(models)}
    weights = np.array([1 / np.sqrt(counts[model]) for model in models])
    weights /= weights.sum()

    def error(coefficients: np.ndarray) -> float:
        off = ndtr(design @ coefficients) - y
        return float(weights @ np.sqrt(off**2 + _SMOOTHING) + _RIDGE * np.sum(coefficients[1:] ** 2))

    return minimize(error, np.array([0.5, *np.zeros(x.shape[1])]), method="BFGS").x


def held_out(x: np.ndarray, y: np.ndarray, models: np.ndarray) -> np.ndarray:
    """For each file the estimate in probits, by coefficients fitted on all other models."""
    found = np.zeros(len(y))
    for model in sorted(set(models)):
        mine = models == model
        coefficients = fit(x[~mine], y[~mine], models[~mine])
        found[mine] = np.column_stack([np.ones(mine.sum()), x[mine]]) @ coefficients
    return found


def covered(probits: np.ndarray, y: np.ndarray, n: np.ndarray, half_width: float) -> np.ndarray:
    """Whether the interval of each file holds its real share, which n inputs tell to half an input."""
    low, high = ndtr(probits - half_width), ndtr(probits + half_width)
    return (y >= low - 0.5 / n) & (y <= high + 0.5 / n)


def calibrate(rows: list[dict]) -> dict:
    """Coefficients, half width, and the errors of models held out."""
    x, y, n = (np.array([row[key] for row in rows], np.float64) for key in ("features", "real", "n"))
    models, generated = np.array([row["model"] for row in rows]), np.array([row["generated"] for row in rows])
    probits = held_out(x, y, models)
    widths = np.arange(0.05, 3, 0.01)
    half = float(next((width for width in widths if covered(probits, y, n, width).mean() >= COVERAGE), widths[-1]))
    inside, off = covered(probits, y, n, half), np.abs(ndtr(probits) - y)
    return {
        "coefficients": fit(x, y, models).round(4).tolist(),
        "half_width": round(half, 2),
        "files": len(rows),
        "models": len(set(models)),
        "mean_error": float(off.mean()),
        "median_error": float(np.median(off)),
        "generated_error": float(np.abs(generated - y).mean()),
        "coverage": float(inside.mean()),
        "by_model": {
            model: [
                int((models == model).sum()), *(float(v[models == model].mean()) for v in (off, np.abs(generated - y), inside))
            ]
            for model in sorted(set(models))
        },
        "broken": [float(np.mean((share < 0.8) == (y < 0.8))) for share in (ndtr(probits), generated)],
        "estimates": ndtr(probits).tolist(),
    }  # fmt: skip


def markdown(found: dict) -> str:
    """The table: errors of models held out, in points."""
    lines = [
        "| model | files | error of the estimate | error of generated inputs | in the interval |",
        "|---|---|---|---|---|",
    ]
    for model, (count, off, plain, inside) in found["by_model"].items():
        lines.append(f"| {model} | {count} | {100 * off:.1f} | {100 * plain:.1f} | {inside:.0%} |")
    off, plain = found["mean_error"], found["generated_error"]
    lines.append(f"| all | {found['files']} | {100 * off:.1f} | {100 * plain:.1f} | {found['coverage']:.0%} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict], found: dict, path: str) -> None:
    """Writes a PNG: real agreement against the estimate of models held out, and against generated inputs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    real = 100 * np.array([row["real"] for row in rows])
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4.5), sharey=True)
    titles = ("agreement on generated inputs, %", "estimated agreement, its network held out, %")
    for panel, title, values in zip(
        panels, titles, ([row["generated"] for row in rows], found["estimates"]), strict=True
    ):
        panel.plot([0, 100], [0, 100], color="0.7", linewidth=1)
        panel.scatter(100 * np.array(values), real, s=14, alpha=0.7)
        panel.set(xlabel=title, xlim=(-3, 103), ylim=(-3, 103), aspect="equal")
    shares = np.linspace(0.002, 0.998, 200)
    ends = (100 * ndtr(ndtri(shares) + sign * found["half_width"]) for sign in (-1, 1))
    panels[1].fill_between(100 * shares, *ends, alpha=0.15, linewidth=0, label="90 % interval")
    panels[1].legend(loc="upper left")
    panels[0].set_ylabel("real agreement, %")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _measure(values: flags.FlagValues, rows: list[dict]) -> None:
    done = {(row["model"], row["recipe"]) for row in rows}
    world_folder = None if values.world is None else Path(values.world)
    for classifier in classifiers(zoo.find_folder(values.zoo), world_folder, values.limit):
        measured = Measured(classifier)
        for name, recipe in recipes().items() if measured.classes else ():
            if (classifier.name, name) in done:
                continue
            rows.append(measured.row(name, recipe))
            row = rows[-1]
            print(
                f"{classifier.name:20} {name:20} real {row['real']:.3f}  generated {row['generated']:.3f}", flush=True
            )
            command.write_json(values.json, {"environment": command.environment(), "rows": rows})


def _define_flags() -> None:
    zoo.define_flags()
    flags.DEFINE_string("world", None, "Folder with classifiers, and with inputs beside them.")
    flags.DEFINE_integer("limit", 500, "Real inputs for each network, at most.", lower_bound=1)
    flags.DEFINE_string("rows", None, "Fit the rows of this JSON, and measure nothing.")
    command.define_outputs()
    flags.DEFINE_string("plot", None, "Also draw real agreement against both figures into this PNG.")


def main(values: flags.FlagValues) -> int:
    source = values.rows or (values.json if values.json and Path(values.json).exists() else None)
    record = json.loads(Path(source).read_text()) if source else {"environment": command.environment(), "rows": []}
    if not values.rows:
        with command.input_errors():
            _measure(values, record["rows"])
    found = calibrate(record["rows"])
    text = markdown(found)
    print(text)
    print(f"coefficients {found['coefficients']}, half width {found['half_width']}")
    command.write_text(values.markdown, text)
    command.write_json(values.json, {**record, "calibration": found})
    if values.plot:
        plot(record["rows"], found, values.plot)
    return os.EX_OK


if __name__ == "__main__":
    command.run(main, _define_flags)
