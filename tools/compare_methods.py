"""Compares data-free methods: top-1 by bits and by sparsity, time, and peak memory.

    python tools/compare_methods.py --zoo=../shared/zoo --networks=resnet20,resnet8 --bits=8,4 --sparsities=0.8,0.9 \
        --results=methods.jsonl --markdown=methods.md --plots=plots/

The methods are those of comparators.py. Each figure comes from a process of its own: its peak memory is what the method takes
beyond the loaded network. Times are processor times. Rows go into --results as they are measured; a run that was stopped, or one
with more methods, measures only what is missing. It draws the figures of two papers (Horton et al. 2021, figs. 3 and 6): time and
memory of each method, and top-1 against sparsity.
"""

import dataclasses
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import command
import comparators
import evaluate
import own_process
import zoo
from comparators import Effort, Task
from kept_rows import KeptRows

_KIB = 1024  # Linux counts peak memory in KiB


def measure_cell(
    subject: zoo.Subject,
    folder: Path,
    limit: int | None,
    kind: str,
    level: float,
    method: str,
    seed: int,
    effort: Effort,
) -> dict:
    """One figure: {"n", "float", "top1", "agreement", "seconds", "memory_mb"}; in a process of its own."""
    model = evaluate.logits_model(subject.load_model(folder))
    x, y = subject.load_labelled(folder, limit)
    x = subject.prepare(x)
    task = Task(model=model, input_range=subject.input_range, effort=effort, seed=seed)
    before, started = _peak(), time.process_time()
    made = task.quantized(method, int(level)) if kind == "bits" else task.pruned(method, level)
    seconds, peak = time.process_time() - started, _peak()
    reference = evaluate.predict(model, x)
    scores = evaluate.score(y, evaluate.predict(made, x), reference)
    return {
        "n": len(y),
        "float": evaluate.score(y, reference)["top1"],
        "top1": scores["top1"],
        "agreement": scores["agreement"],
        "seconds": seconds,
        "memory_mb": (peak - before) * _KIB / 2**20,
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def markdown(rows: Sequence[dict], kind: str) -> str:
    """Returns a table of top-1 with a line per network and level and a column per method; several seeds as least to most."""
    mine = [row for row in rows if row["kind"] == kind]
    methods = list(dict.fromkeys(row["method"] for row in mine))
    lines = [["network", kind, "float", *methods], ["---", *["---:"] * (len(methods) + 2)]]
    for network, level in dict.fromkeys((row["network"], row["level"]) for row in mine):
        of_line = [row for row in mine if (row["network"], row["level"]) == (network, level)]
        whole = [f"{100 * row['float']:.1f}" for row in of_line if "float" in row]
        cells = [_cell([row for row in of_line if row["method"] == method]) for method in methods]
        lines.append([network, f"{level:g}", whole[0] if whole else "", *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) if mine else ""


def costs(rows: Sequence[dict]) -> str:
    """Returns a table of processor seconds and peak memory: a line per method, a column per network; means over its rows."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    lines = [
        ["method", *(f"{n}, {unit}" for n in networks for unit in ("s", "MB"))],
        ["---", *["---:"] * 2 * len(networks)],
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for network in networks:
            found = [r for r in rows if (r["method"], r["network"]) == (method, network) and "error" not in r]
            for name in ("seconds", "memory_mb"):
                cells.append(f"{sum(row[name] for row in found) / len(found):.0f}" if found else "")
        lines.append([method, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(rows: Sequence[dict]) -> str:
    values = sorted(100 * row["top1"] for row in rows if "error" not in row)
    if not values:
        return "failed" if rows else ""
    return f"{values[0]:.1f}" if len(values) == 1 else f"{values[0]:.1f} to {values[-1]:.1f}"


def plot(rows: Sequence[dict], folder: Path) -> list[Path]:
    """Draws costs.png (time and memory), bits.png and sparsity.png (top-1). Needs matplotlib (pip install tfdatafree[plots])."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    good = [row for row in rows if "error" not in row]
    methods = list(dict.fromkeys(row["method"] for row in good))
    colours = dict(zip(methods, pyplot.get_cmap("tab20").colors, strict=False))
    written = []
    networks = list(dict.fromkeys(row["network"] for row in good))
    for kind, text in (("bits", "bits of weights and activations"), ("sparsity", "part of zeros")):
        mine = [row for row in good if row["kind"] == kind]
        if not mine:
            continue
        figure, axes = pyplot.subplots(1, len(networks), figsize=(5.5 * len(networks), 4.5), squeeze=False)
        for axis, network in zip(axes[0], networks, strict=True):
            of_network = [row for row in mine if row["network"] == network]
            levels = sorted({row["level"] for row in of_network}, reverse=kind == "bits")
            present = [method for method in methods if any(row["method"] == method for row in of_network)]
            for at, method in enumerate(present):
                points = [
                    [100 * row["top1"] for row in of_network if (row["method"], row["level"]) == (method, level)]
                    for level in levels
                ]
                place = [index + 0.8 * (at + 0.5) / len(present) - 0.4 for index in range(len(levels))]
                heights = [sum(some) / len(some) if some else 0 for some in points]
                axis.bar(place, heights, 0.8 / len(present), color=colours[method], label=method)
            if of_network:
                axis.axhline(100 * of_network[0]["float"], color="grey", linestyle=":", label="float")
            axis.set(title=network, xlabel=text, ylabel="top-1, %", xticks=range(len(levels)))
            axis.set_xticklabels([f"{level:g}" for level in levels])
            axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        written.append(_written(figure, folder / f"{kind}.png"))
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for axis, name, text in zip(axes, ("seconds", "memory_mb"), ("processor time, s", "peak memory, MB"), strict=True):
        for at, network in enumerate(networks):
            values = [[r[name] for r in good if (r["method"], r["network"]) == (m, network)] for m in methods]
            means = [sum(some) / len(some) if some else 0 for some in values]
            axis.bar([index + 0.4 * at for index in range(len(methods))], means, 0.4, label=network)
        axis.set(ylabel=text, xticks=[index + 0.2 * (len(networks) - 1) for index in range(len(methods))])
        axis.set_xticklabels(methods, rotation=60, fontsize=8)
        axis.legend(fontsize=8)
    axes[0].set_yscale("log")
    for format_of in (axes[0].yaxis.set_major_formatter, axes[0].yaxis.set_minor_formatter):
        format_of(lambda value, _: f"{value:g}")
    return [*written, _written(figure, folder / "costs.png")]


def _written(figure, path: Path) -> Path:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _define_flags() -> None:
    flags.DEFINE_string("zoo", str(zoo.FOLDER), "Folder with the models and the labelled images.")
    flags.DEFINE_list("networks", ["resnet20", "resnet8"], f"Of {', '.join(zoo.SUBJECTS)}.")
    flags.DEFINE_list("methods", list(comparators.QUANTIZING), f"Of {', '.join(comparators.QUANTIZING)}.")
    flags.DEFINE_list("pruning_methods", list(comparators.PRUNING), f"Of {', '.join(comparators.PRUNING)}.")
    flags.DEFINE_list("bits", ["8", "4"], "Of weights and activations, each 4 to 8; empty for none.")
    flags.DEFINE_list("sparsities", [], "Parts of zeros, each above 0 and below 1.")
    flags.DEFINE_list("seeds", ["0"], "Whole numbers.")
    for name, text in (("steps", "Training steps."), ("images", "Images."), ("image_steps", "Steps for each image.")):
        flags.DEFINE_integer(name, getattr(Effort(), name), text, lower_bound=4)
    flags.DEFINE_integer(
        "limit", None, "Score this many images per set, spread evenly; all if not given.", lower_bound=1
    )
    flags.DEFINE_string("results", None, "Keep the rows in this file, and measure only those that it lacks.")
    flags.DEFINE_string("plots", None, "Also draw PNGs into this folder.")
    command.define_outputs("tables")


def _numbers(flag: str, texts: Sequence[str], least: float, most: float) -> list[float]:
    try:
        values = [float(text) for text in texts if text]
    except ValueError:
        values = [most + 1]
    if not all(least <= value <= most for value in values):
        raise ValueError(f"--{flag}={','.join(texts)}: give numbers from {least:g} to {most:g}.")
    return values


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        networks = command.choose("networks", values.networks, zoo.SUBJECTS)
        methods = {
            "bits": command.choose("methods", values.methods, comparators.QUANTIZING),
            "sparsity": command.choose("pruning_methods", values.pruning_methods, comparators.PRUNING),
        }
        levels = {
            "bits": _numbers("bits", values.bits, 4, 8),
            "sparsity": _numbers("sparsities", values.sparsities, 0.01, 0.99),
        }
        seeds = [int(seed) for seed in _numbers("seeds", values.seeds, 0, 2**31 - 1)]
        folder = zoo.find_folder(values.zoo)
    effort = Effort(images=values.images, image_steps=values.image_steps, steps=values.steps)
    kept, rows = KeptRows(values.results), []
    for network in networks:
        cells = [(kind, lv, m, s) for kind in levels for lv in levels[kind] for m in methods[kind] for s in seeds]
        for kind, level, method, seed in cells:
            key = {"network": network, "kind": kind, "level": level, "method": method, "seed": seed}
            key |= {"limit": values.limit, **dataclasses.asdict(effort)}
            cell = (zoo.SUBJECTS[network], folder, values.limit, kind, level, method, seed, effort)
            rows.append(kept.row(key, lambda cell=cell: own_process.run_row(measure_cell, *cell)))
            row = rows[-1]
            shown = (
                row.get("error")
                or f"top-1 {100 * row['top1']:.2f} %, {row['seconds']:.0f} s, {row['memory_mb']:.0f} MB"
            )
            print(f"{network}, {kind} {level:g}, {method}, seed {seed}: {shown}", flush=True)
    tables = "\n".join(filter(None, [markdown(rows, "bits"), markdown(rows, "sparsity"), costs(rows)]))
    print(tables)
    command.write_json(values.json, {"environment": command.environment(), "rows": rows})
    command.write_text(values.markdown, tables)
    if values.plots:
        plot(rows, Path(values.plots))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command.run(main, _define_flags)
