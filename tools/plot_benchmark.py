"""Draws what tools/benchmark.py measured: how near each int8 file is to its float model, made without and with data.

    python tools/benchmark.py --json=docs/figures/benchmark.json
    python tools/plot_benchmark.py --rows=docs/figures/benchmark.json --plot=docs/figures/benchmark.png

Left: the share of images for which file and float model choose the same class. Right: top-1 less that of the float model.
"""

import json
import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import command

_ROWS = {
    "tfdatafree:int8": ("tfdatafree, no data", "#00796b"),
    "ptq": ("converter, 100 real images", "#9e9e9e"),
    "ptq_noise": ("converter, noise", "#d7ccc8"),
}
# Losses in points that are larger are drawn as this one.
_LOWEST = -6.0
_NAMES = {
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v1_025": "MobileNetV1-0.25",
    "resnet20": "ResNet-20",
    "resnet8": "ResNet-8",
}


def draw(record: dict, path: Path) -> None:
    """Writes the plot of a benchmark's record to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {(row["model"], row["row"]): row for row in record["rows"]}
    models = list(dict.fromkeys(model for model, _ in rows))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    for at, (row, (label, colour)) in enumerate(_ROWS.items()):
        places = [index + 0.27 * (at - 1) for index in range(len(models))]
        agreement = [100 * rows[model, row]["agreement"] for model in models]
        loss = [100 * (rows[model, row]["top1"] - rows[model, "float"]["top1"]) for model in models]
        bars = left.bar(places, agreement, 0.25, color=colour, label=label)
        left.bar_label(bars, fmt="%.1f", fontsize=7)
        bars = right.bar(places, [max(points, _LOWEST) for points in loss], 0.25, color=colour)
        right.bar_label(bars, [f"{points:+.1f}" for points in loss], fontsize=7)
    left.set_ylim(0, 108)
    left.set_title("same class as the float model, %", fontsize=10)
    right.set_ylim(_LOWEST - 0.7, 1.5)
    right.set_title("top-1 less that of the float model, points", fontsize=10)
    right.axhline(0, color="black", linewidth=0.8)
    for axes in (left, right):
        axes.set_xticks(range(len(models)), [_NAMES.get(model, model) for model in models], fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=160)


def main(values: flags.FlagValues) -> int:
    draw(json.loads(Path(values.rows).read_text()), Path(values.plot))
    return 0


def _define_flags() -> None:
    flags.DEFINE_string("rows", None, "JSON that tools/benchmark.py wrote.", required=True)
    flags.DEFINE_string("plot", None, "PNG to write.", required=True)


if __name__ == "__main__":
    command.run(main, _define_flags)
