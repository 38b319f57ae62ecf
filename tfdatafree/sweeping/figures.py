"""The figures of a report that a sweep lists and compares."""

import math
from dataclasses import dataclass
from typing import Any

from tfdatafree.report.report import Report

# Column -> what it says, in the order of the table.
COLUMNS = {
    "model": "model",
    "recipe": "recipe",
    "sparsity": "sparsity asked for",
    "size": "size asked for",
    "target": "target",
    "error": "why there is no file",
    "float_bytes": "bytes of the float weights",
    "bytes": "bytes of the file",
    "gzip_bytes": "bytes of the file after gzip",
    "zeros": "fraction of zeros in its kernels",
    "estimated_agreement": "estimated fraction of real inputs with the float model's class",
    "loss": "response discrepancy of the worst output, 0 best, 2 worst",
    "sqnr_db": "signal-to-noise ratio of the worst output, dB",
    "integer_only": "whether it computes in integers only",
    "npu_bytes": "bytes compiled for the target",
    "npu_ms": "milliseconds that the target's compiler estimates",
    "cpu_ms": "milliseconds measured on this CPU",
    "front": "costs by which no other file is both cheaper and better",
    "recommended": "whether it is the best within the budget",
    "file": "path of the file, from the folder of the sweep",
    "report": "path of its report",
    "recipe_file": "path of the recipe that makes it again",
    "key": "hash of all that decides it",
}
# What `loss` is.
LOSS = "response discrepancy"
# What a file costs: column -> its name.
COSTS = {"bytes": "bytes", "gzip_bytes": "bytes after gzip", "npu_ms": "ms on the target", "cpu_ms": "ms on this CPU"}


@dataclass(frozen=True)
class Quality:
    """How well a compressed model serves as the float model's.

    Attributes:
        agreement: Estimated fraction of real inputs, 0 to 1, with the same class; None for models without classes.
        loss: What points are ranked by: lower is better.
    """

    agreement: float | None
    loss: float


def quality_of(report: Report) -> Quality:
    """By the worst output: its estimated agreement, and its response discrepancy (of outputs, if there was one input only)."""
    losses = [
        output.output_discrepancy if output.response_discrepancy is None else output.response_discrepancy
        for output in report.outputs
    ]
    agreements = [output.expected.share for output in report.outputs if output.expected is not None]
    return Quality(min(agreements, default=None), max(losses, default=0.0))


def figures_of(report: Report) -> dict[str, Any]:
    """The columns that a report tells."""
    quality = quality_of(report)
    worst = min((output.worst.sqnr_db for output in report.outputs), default=math.inf)
    return {
        "float_bytes": report.float_bytes,
        "bytes": report.bytes,
        "gzip_bytes": report.gzip_bytes,
        "zeros": report.zeros,
        "estimated_agreement": quality.agreement,
        "loss": quality.loss,
        "sqnr_db": worst if math.isfinite(worst) else None,
        "integer_only": report.integer_only,
        "npu_bytes": report.npu_bytes,
        "npu_ms": None if report.npu_seconds is None else 1000 * report.npu_seconds,
    }
