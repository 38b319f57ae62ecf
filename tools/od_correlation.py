"""Measures how well label-free figures rank compressed models, as in figure 2 of "FRanDI" (Sobolev et al.).

    python tools/od_correlation.py --zoo=../shared/zoo --model=resnet20 --limit=1000 --markdown=od.md --plot=od.png

The tool makes about fifty variants of one model, without data. Some are pruned by several methods, others are rounded
to several widths. A final softmax is removed first. Labelled images give each variant's top-1 and its agreement with the
float model. Images without labels give its Output Discrepancy and its Response Discrepancy to the float model; the second
leaves out what the outputs of all images have in common. The sets of images without labels:
    matched     tfdatafree.generate_images: statistics at every BatchNorm as stored, over the whole set
    procedural  1/f noise and dead leaves, made without a model
    noise       Gaussian, clipped to the input range
    real        calibration images, none of them among the labelled images: the reference for the others
The tables have, for each figure:
- Spearman's rho against top-1 and against agreement, over all variants and over the good ones. A good variant has a top-1
  within --good points of float: among these a user chooses.
- Of all pairs of variants whose agreement differs by at least two points, the share that is ranked right.
- How much better than Output Discrepancy it ranks the good variants. Variants and labelled images are drawn at random;
  the table has the share of draws in which it is better.

A distance to the float model cannot see where a variant corrects a mistake of that model. The row "agreement" shows how
well the true agreement, on the labelled images themselves, ranks top-1.

A limited number of labelled images tells variants apart only to a limited degree. The last row of the table has the
largest rho that any figure can be expected to reach. It is the square root of
    r = 2 h / (1 + h),      h: mean rho between two random halves of these images
r is the rho that another set of the same size would reach (Spearman and Brown). Variants with equal damage lower h without
need. So variants differ in what decides their damage: the widths of weights and activations, or the zeros.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import command
import evaluate
import zoo

SETS = ("matched", "procedural", "noise", "real")
METRICS = {"od": "OD", "response": "response"}  # key of a row: heading
_SEED = 1
_APART = 0.02
_HALVINGS, _RESAMPLINGS = 200, 400


def variants() -> dict:
    """Returns {name: Recipe}."""
    from tfdatafree import Generate, Quantize, Recipe
    from tfdatafree.recipe.prune import Prune

    few = Generate(images=8, samples=500)
    found = {}
    for method in ("global_unfolded", "energy", "erk", "uniform"):
        for sparsity in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
            prune = Prune(sparsity=sparsity, method=method, images=64, restore=False)
            found[f"{method} {sparsity:.0%}"] = Recipe(quantize=None, prune=prune, generate=few)
    for sparsity in (0.5, 0.6, 0.7, 0.8, 0.9):
        prune = Prune(sparsity=sparsity, method="obs", images=64, restore=False)
        found[f"obs {sparsity:.0%}"] = Recipe(quantize=None, prune=prune, generate=few)
    widths = [(8, 8), (8, 7), (8, 6), (8, 5), (8, 4), (6, 7), (5, 7), (4, 7), (6, 5), (5, 5), (4, 5), (5, 4), (4, 4)]
    for weights, activations in widths:
        for rounding, per_channel in (("feedback", True), ("nearest", False)):
            if weights > 6 and not per_channel:
                continue  # 7 and 8 bits do hardly any damage, with either grid
            quantize = Quantize(
                weight_bits=weights,
                activation_bits=activations,
                per_channel=per_channel,
                symmetric_weights=False,  # so the model is simulated, and no file is written and verified
                rounding=rounding,
            )
            where = "channel" if per_channel else "tensor"
            found[f"w{weights}a{activations} {rounding}, per {where}"] = Recipe(quantize=quantize, generate=few)
    for sparsity, bits in ((0.4, 6), (0.5, 6), (0.7, 6), (0.5, 5), (0.7, 5)):
        prune = Prune(sparsity=sparsity, method="global_unfolded", images=64, restore=False)
        quantize = Quantize(weight_bits=bits, activation_bits=bits, symmetric_weights=False, rounding="nearest")
        found[f"global_unfolded {sparsity:.0%} w{bits}a{bits}"] = Recipe(quantize=quantize, prune=prune, generate=few)
    return found


def image_sets(model, calibration: np.ndarray, input_range: tuple[float, float], n: int) -> dict[str, np.ndarray]:
    """Returns {set: (n, height, width, channels) float32}; `calibration` are the real images, prepared for the model."""
    from tfdatafree import generate_images

    options = {"input_range": input_range, "seed": _SEED, "verbose": 0}
    return {
        "matched": generate_images(model, n, statistics="set", batch_size=min(n, 32), **options).images,
        "procedural": generate_images(model, n, steps=1, learning_rate=1e-9, **options).images,
        "noise": generate_images(model, n, steps=1, learning_rate=1e-9, start="noise", **options).images,
        "real": calibration[:n],
    }


def measure(
    model,
    recipes: Mapping,
    sets: Mapping[str, np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    preprocess: Callable | None,
    input_range: tuple[float, float],
    report: Callable[[dict], None] = lambda row: None,
) -> tuple[list[dict], np.ndarray]:
    """Returns a row per variant and their decisions on `x`, (rows, len(x)). The first row is the float model."""
    import keras

    import tfdatafree
    from tfdatafree.numerics.metrics import output_discrepancy, response_discrepancy

    reference = evaluate.predict(model, x, batch=100, preprocess=preprocess)
    references = {name: evaluate.predict(model, images, batch=100) for name, images in sets.items()}
    rows = [{"variant": "float", "top1": float(np.mean(reference.argmax(-1) == y)), "agreement": 1.0}]
    decisions = [reference.argmax(-1)]
    for name, recipe in recipes.items():
        started = time.perf_counter()
        student = tfdatafree.compress(model, recipe, input_range=input_range, verbose=0).model
        decisions.append(evaluate.predict(student, x, batch=100, preprocess=preprocess).argmax(-1))
        found = {which: evaluate.predict(student, images, batch=100) for which, images in sets.items()}
        row = {
            "variant": name,
            "top1": float(np.mean(decisions[-1] == y)),
            "agreement": float(np.mean(decisions[-1] == decisions[0])),
            "od": {which: output_discrepancy(references[which], found[which]) for which in sets},
            "response": {which: response_discrepancy(references[which], found[which]) for which in sets},
            "seconds": time.perf_counter() - started,
        }
        rows.append(row)
        report(row)
        keras.backend.clear_session()  # frees the traces of this variant's models
    return rows, np.stack(decisions)


def correlations(rows: list[dict], good: float) -> list[dict]:
    """Returns Spearman's rho of -metric, per metric and image set; the last entry is that of the agreement itself.

    A rho is None where fewer than three variants are left to rank, or all have the same value. "pairs" is the share, ranked
    right, of the pairs that are clearly apart in agreement; None where there are none.

    Args:
        good: Points of top-1 that a good variant may lose.
    """
    float_row, *others = rows
    best = [row for row in others if _is_good(row, float_row, good)]
    found = []
    for metric in METRICS:
        for name in others[0][metric] if others else ():
            of = {which: [-row[metric][name] for row in some] for which, some in (("", others), ("_good", best))}
            entry = {"images": name, "metric": metric, "good": len(best)}
            for target in ("top1", "agreement"):
                entry[target] = _rho(of[""], [row[target] for row in others])
                entry[f"{target}_good"] = _rho(of["_good"], [row[target] for row in best])
            found.append(entry | {"pairs": _pairs(of[""], [row["agreement"] for row in others])})
    entry = {"images": "labelled", "metric": "agreement", "good": len(best), "pairs": None}
    for key, some in (("", others), ("_good", best)):
        entry[f"top1{key}"] = _rho([row["agreement"] for row in some], [row["top1"] for row in some])
        entry[f"agreement{key}"] = None
    return [*found, entry]


def ceilings(rows: list[dict], decisions: np.ndarray, y: np.ndarray, good: float) -> dict:
    """Returns the rho that `correlations` would give, on average, to a figure that knew each variant's true accuracy.

    Args:
        decisions: (rows, images) argmax of each row's model.
        y: (images,) labels.
    """
    of = {"top1": decisions[1:] == y, "agreement": decisions[1:] == decisions[0]}
    best = np.array([_is_good(row, rows[0], good) for row in rows[1:]], bool)
    random = np.random.default_rng(_SEED)
    halves = [np.array_split(random.permutation(len(y)), 2) for _ in range(_HALVINGS)]
    found = {"images": f"{len(y)} labelled", "metric": "ceiling", "good": int(best.sum()), "pairs": None}
    for target, right in of.items():
        for key, some in ((target, right), (f"{target}_good", right[best])):
            rhos = [_rho(some[:, a].mean(axis=1), some[:, b].mean(axis=1)) for a, b in halves]
            h = np.mean([rho for rho in rhos if rho is not None] or [np.nan])
            found[key] = float(np.sqrt(2 * h / (1 + h))) if h > 0 else None
    return found


def lead(rows: list[dict], decisions: np.ndarray, y: np.ndarray, good: float) -> list[dict]:
    """Returns how much better than OD each other metric ranks the good variants by top-1, per image set.

    Variants and labelled images are drawn at random, as many as there are, with replacement. "lead" is the mean of rho
    minus OD's rho over the draws; "ahead" is the share of draws where it is positive. Arguments as for `ceilings`.
    """
    random = np.random.default_rng(_SEED)
    best = [at for at in range(1, len(rows)) if _is_good(rows[at], rows[0], good)]
    right = decisions == y
    draws = []
    for _ in range(_RESAMPLINGS if best else 0):
        drawn = random.choice(best, len(best))
        draws.append((drawn, right[:, random.integers(0, len(y), len(y))].mean(axis=1)[drawn]))
    found = []
    for metric in list(METRICS)[1:]:
        for name in rows[1][metric] if len(rows) > 1 else ():
            leads = []
            for drawn, top1 in draws:
                rhos = [_rho([-rows[at][key][name] for at in drawn], top1) for key in (metric, "od")]
                if None not in rhos:
                    leads.append(rhos[0] - rhos[1])
            ahead = float(np.mean(np.array(leads) > 0)) if leads else None
            mean = float(np.mean(leads)) if leads else None
            found.append({"images": name, "metric": metric, "lead": mean, "ahead": ahead})
    return found


def _is_good(row: dict, float_row: dict, good: float) -> bool:
    return row["top1"] >= float_row["top1"] - good / 100


def _rho(found: Sequence[float], wanted: Sequence[float]) -> float | None:
    import scipy.stats

    if len(found) < 3 or len(set(found)) == 1 or len(set(wanted)) == 1:
        return None
    return float(scipy.stats.spearmanr(found, wanted).statistic)


def _pairs(found: Sequence[float], wanted: Sequence[float]) -> float | None:
    found, wanted = np.asarray(found), np.asarray(wanted)
    apart = wanted[:, None] - wanted >= _APART
    return float(np.mean((found[:, None] > found)[apart])) if apart.any() else None


def markdown(rows: list[dict], found: list[dict], leads: Sequence[dict] = ()) -> str:
    """Returns the tables in Markdown: correlations, metrics compared with OD, variants."""
    text = lambda value: "-" if value is None else f"{value:.3f}"  # noqa: E731
    count = found[0]["good"] if found else 0
    lines = [
        f"| images | figure | rho, top-1 | rho, agreement | top-1, {count} good | agreement, {count} good | pairs |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        figures = (row[key] for key in ("top1", "agreement", "top1_good", "agreement_good", "pairs"))
        heading = METRICS.get(row["metric"], row["metric"])
        lines.append(f"| {row['images']} | {heading} | {' | '.join(map(text, figures))} |")
    names = [(row["metric"], row["images"]) for row in found if row["metric"] in METRICS]
    headings = " | ".join(f"{METRICS[metric]}, {images}" for metric, images in names)
    if leads:
        lines += ["", "| images | figure | rho above OD's, good | share of draws above |", "|---|---|---:|---:|"]
    for row in leads:
        heading = METRICS[row["metric"]]
        lines.append(f"| {row['images']} | {heading} | {text(row['lead'])} | {text(row['ahead'])} |")
    lines += ["", f"| variant | top-1 % | agreement | {headings} |", f"|---|---:|---:|{'---:|' * len(names)}"]
    for row in rows:
        figures = [f"{100 * row['top1']:.2f}", f"{row['agreement']:.4f}"]
        figures += [f"{row[metric][images]:.4f}" if metric in row else "0" for metric, images in names]
        lines.append(f"| {row['variant']} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict], found: list[dict], path: str | Path) -> None:
    """Writes a PNG: top-1 against each metric, one panel per image set. Needs matplotlib (pip install matplotlib)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    float_row, *others = rows
    shown = [[row for row in found if row["metric"] == metric] for metric in METRICS]
    size = (4 * len(shown[0]), 4 * len(shown))
    figure, grid = pyplot.subplots(len(shown), len(shown[0]), figsize=size, sharey=True, squeeze=False)
    for row, panel in zip(sum(shown, []), grid.flat, strict=True):
        panel.axhline(100 * float_row["top1"], color="0.7", linewidth=1)
        for pruned, marker in ((True, "o"), (False, "^")):
            some = [other for other in others if ("%" in other["variant"]) == pruned]
            panel.scatter(
                [other[row["metric"]][row["images"]] for other in some],
                [100 * other["top1"] for other in some],
                s=18,
                marker=marker,
                label="pruned" if pruned else "quantized",
            )
        rho = "" if row["top1"] is None else f", rho {row['top1']:.3f}"
        name = {"od": "Output Discrepancy", "response": "Response Discrepancy"}[row["metric"]]
        panel.set(title=f"{row['images']}{rho}", xlabel=name)
    for panels in grid:
        panels[0].set_ylabel("top-1, %")
    grid[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _define_flags() -> None:
    zoo.define_flags(model="resnet20")
    flags.DEFINE_integer("limit", 1000, "Measure accuracy on this many images, spread evenly.", lower_bound=1)
    flags.DEFINE_integer("images", 256, "Images per set without labels.", lower_bound=1)
    flags.DEFINE_integer("variants", None, "Only this many variants, spread evenly; all if not given.", lower_bound=1)
    flags.DEFINE_float("good", 7.0, "Points of top-1 that a good variant may lose.", lower_bound=0)
    command.define_outputs("tables")
    flags.DEFINE_string("plot", None, "Also draw top-1 against both figures into this PNG.")


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        folder = zoo.find_folder(values.zoo)
    subject = zoo.SUBJECTS[values.model]
    model = evaluate.logits_model(subject.load_model(folder))
    x, y = subject.load_labelled(folder, values.limit)
    calibration, _ = subject.load_calibration(folder, values.images)
    sets = image_sets(model, calibration, subject.input_range, values.images)
    recipes = variants()
    if values.variants is not None:
        chosen = np.linspace(0, len(recipes) - 1, min(values.variants, len(recipes))).astype(int)
        recipes = {name: recipe for at, (name, recipe) in enumerate(recipes.items()) if at in chosen}

    def report(row: dict) -> None:
        discrepancies = "  ".join(f"{name} {row['od'][name]:.4f}" for name in SETS)
        print(f"{row['variant']:32} top-1 {100 * row['top1']:6.2f}  {discrepancies}", flush=True)

    rows, decisions = measure(model, recipes, sets, x, y, subject.prepare, subject.input_range, report)
    found = [*correlations(rows, values.good), ceilings(rows, decisions, y, values.good)]
    leads = lead(rows, decisions, y, values.good)
    print(markdown(rows[:1], found, leads))
    record = {
        "environment": command.environment(),
        "model": subject.name,
        "limit": values.limit,
        "images": values.images,
        "good": values.good,
        "correlations": found,
        "lead": leads,
        "rows": rows,
        "recipes": {name: dataclasses.asdict(recipe) for name, recipe in recipes.items()},
    }
    command.write_json(values.json, record)
    command.write_text(values.markdown, markdown(rows, found, leads))
    if values.plot:
        plot(rows, found, values.plot)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    command.run(main, _define_flags)
