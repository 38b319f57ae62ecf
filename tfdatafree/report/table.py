"""The layers on the report page: the table's rows, the data of the page's script, and the same as CSV."""

import csv
import html
import io
import math
from collections.abc import Iterable
from typing import Any

from tfdatafree.report.evidence import Evidence, Histogram, KernelSummary
from tfdatafree.report.layer_row import LayerRow
from tfdatafree.report.network import assign_lanes
from tfdatafree.report.report import Report
from tfdatafree.report.verdict import costly

# Rows that the summary names.
_NAMED = 4
# Digits of the ends of channels, which are only drawn.
_DIGITS = 3
# Columns: key of the script's data, heading, meaning of the heading, CSS classes.
COLUMNS = (
    ("at", "#", "position in the order of execution", "wide"),
    ("name", "layer", "name of the tensor: the Keras layer that writes it", "text name"),
    ("damage", "cost %", "error of the results that the rounding of this tensor and its weights causes", ""),
    ("sqnr", "SQNR dB", "signal-to-quantization-noise ratio, with the noise of all layers before", "wide"),
    ("operation", "operation", "Keras layers that the file computes as one operator", "text operation wide"),
    ("bytes", "bytes", "bytes of the kernel in the file", ""),
    ("multiplications", "MACs", "multiplications for one input", "wide"),
    ("weight_bits", "w. bits", "bits of a weight", ""),
    ("activation_bits", "bits", "bits of a value", "wide"),
    ("sparsity", "zeros %", "weights that are exactly 0", "wide"),
)


def script_data(report: Report, evidence: Evidence) -> Iterable[dict[str, Any]]:
    """The script's data, one entry per row of the report."""
    lanes = assign_lanes([row.name for row in report.layers], [row.reads for row in report.layers])
    for row, lane in zip(report.layers, lanes, strict=True):
        values, kernel = evidence.values.get(row.name), evidence.kernels.get(row.layer or "")
        sizes = [size for size in row.shape if size is not None]
        yield {
            "name": row.name,
            "operation": row.operation,
            "reads": row.reads,
            "lane": lane,
            "shape": " × ".join(str(size or "?") for size in row.shape) or "one value",
            "size": math.prod(sizes),
            "sqnr": row.sqnr_db if math.isfinite(row.sqnr_db) else None,
            "damage": row.damage,
            "bytes": row.bytes,
            "multiplications": row.multiplications,
            "low": row.low,
            "high": row.high,
            "step": row.step,
            "activation_bits": row.activation_bits,
            "weight_bits": row.weight_bits,
            "weight_scales": row.weight_scales,
            "weight_steps": row.weight_steps,
            "weights": row.weights,
            "sparsity": row.sparsity,
            "seen": row.seen,
            "clipped": row.clipped,
            "known_by": row.known_by,
            "values": None if values is None else _histogram(values.histogram),
            "kernel": None if kernel is None else _histogram(kernel.histogram),
            "channels": None if kernel is None else _channels(kernel),
            "remarks": [
                text
                for reasons in (report.kept, report.notes)
                for name, text in reasons.items()
                if name in (row.name, row.layer)
            ],
        }


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {"low": histogram.low, "high": histogram.high, "counts": histogram.counts.tolist()}


def _channels(kernel: KernelSummary) -> dict[str, list[float]]:
    """The ends of each output channel's weights."""
    ends = {"lows": kernel.lows, "highs": kernel.highs}
    return {key: [float(f"{value:.{_DIGITS}g}") for value in values] for key, values in ends.items()}


def heads() -> str:
    """The cells of the table's head."""
    cells = []
    for key, heading, meaning, classes in COLUMNS:
        sort = ' aria-sort="ascending"' if key == "at" else ""
        cells.append(
            f'<th scope="col" class="{classes}" data-key="{key}"{sort} title="{meaning}">'
            f'<button type="button">{heading}</button></th>'
        )
    return "".join(cells)


def rows(report: Report) -> str:
    """The table's rows."""
    return "\n".join(_row(at, row) for at, row in enumerate(report.layers))


def _row(at: int, row: LayerRow) -> str:
    name, operation = html.escape(row.name), html.escape(row.operation)
    damage = "" if row.damage is None else f"{100 * row.damage:.2f}"
    shown = {
        "at": str(at + 1),
        "name": f'<button type="button" class="pick" title="{name}">{name}</button>',
        "damage": f'<i class="chip"></i>{damage}',
        "sqnr": f"{row.sqnr_db:.1f}" if math.isfinite(row.sqnr_db) else "exact",
        "operation": f'<span title="{operation}">{operation}</span>',
        "bytes": "" if row.bytes is None else f"{row.bytes:,}",
        "multiplications": f"{row.multiplications:,}" if row.multiplications else "",
        "weight_bits": "" if row.weight_bits is None else f"{row.weight_bits}",
        "activation_bits": str(row.activation_bits),
        "sparsity": "" if row.sparsity is None else f"{100 * row.sparsity:.2f}",
    }
    cells = "".join(f'<td class="{classes}">{shown[key]}</td>' for key, _, _, classes in COLUMNS)
    return f"<tr>{cells}</tr>"


def costliest(report: Report) -> list[tuple[int, str]]:
    """(position, text) of the rows to look at first: those that cost the results most, or else the noisiest ones."""
    if any(row.damage is not None for row in report.layers):
        return [(at, f"{100 * (report.layers[at].damage or 0):.1f} %") for at in costly(report.layers)[:_NAMED]]
    noisy = sorted((row.sqnr_db, at) for at, row in enumerate(report.layers) if math.isfinite(row.sqnr_db))
    return [(at, f"{value:.1f} dB") for value, at in noisy[:_NAMED]]


def as_csv(report: Report) -> str:
    """The report's rows as CSV (RFC 4180), with a line of names: one column for each plain field of `LayerRow`."""
    text = io.StringIO()
    writer = csv.writer(text)
    plain = [
        name for name, value in vars(report.layers[0]).items() if name not in ("reads", "seen", "weight_steps", "shape")
    ]
    writer.writerow([*plain, "shape", "reads", "seen_low", "seen_high", "smallest_weight_step", "largest_weight_step"])
    for row in report.layers:
        shape = "x".join(str(size or "?") for size in row.shape)
        pairs = (*(row.seen or ("", "")), *(row.weight_steps or ("", "")))
        writer.writerow([*(getattr(row, name) for name in plain), shape, " ".join(row.reads), *pairs])
    return text.getvalue()
