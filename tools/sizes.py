"""Compares compressed files: bytes, packed bytes, zeros, multiplications, NPU bytes, latency.

    python tools/sizes.py --latency=50 --npu dense.tflite pruned.tflite
    python tools/sizes.py --npu --model=net.keras --input_range=-1,1 --variants=dense,obs:0.6,channel:0.5,2:4

Each variant is "dense", METHOD:SPARSITY, or a pattern such as 2:4 or 4x1:0.5, in the int8 recipe. The others are compared
with the first file or variant. NPU sizes are those of Arm Vela (the extra `npu`).

Latency is that of LiteRT on this machine, with one thread. The files take turns for --latency rounds, so that other work on
the machine slows all alike. The table shows the median, and the median of the ratios to the first file in the same round.
On a busy machine even these figures mean little.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import command
import numpy as np
from absl import app, flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The figures of one file. Those that were not asked for are None; `latency_ratio` is to the first file."""

    name: str
    bytes: int
    gzip_bytes: int
    zeros: float
    macs: int
    npu_bytes: int | None = None
    npu_weight_bytes: int | None = None
    latency_ms: float | None = None
    latency_ratio: float | None = None


def measure(files: dict[str, bytes], *, npu: bool = False, rounds: int = 0) -> list[Row]:
    """Returns one row per file of {name: bytes}; the first is the reference of the latency ratios."""
    from tfdatafree.runtimes.latency import latencies
    from tfdatafree.targets.vela import compile_for_npu
    from tfdatafree.tflite.flatbuffer import File
    from tfdatafree.tflite.sizes import gzip_bytes, kernel_zeros, macs

    rows = []
    for name, content in files.items():
        row = Row(
            name=name,
            bytes=len(content),
            gzip_bytes=gzip_bytes([content]),
            zeros=kernel_zeros(content),
            macs=macs(File.parse(content)),
        )
        if npu:
            compiled = compile_for_npu(content)
            row = dataclasses.replace(row, npu_bytes=compiled.bytes, npu_weight_bytes=compiled.weight_bytes)
        rows.append(row)
    if rounds:
        seconds = latencies(list(files.values()), rounds)
        medians, ratios = np.median(seconds, axis=0), np.median(seconds / seconds[:, :1], axis=0)
        rows = [
            dataclasses.replace(row, latency_ms=float(1e3 * median), latency_ratio=float(ratio))
            for row, median, ratio in zip(rows, medians, ratios, strict=True)
        ]
    return rows


def parse_variant(text: str):
    """Returns the Prune of "METHOD:SPARSITY", "n:m" or "axb:SPARSITY"; None for "dense". Else raises ValueError."""
    from tfdatafree.recipe.prune import Prune

    if text == "dense":
        return None
    if re.fullmatch(r"\d+:\d+", text):
        return Prune(pattern=text)
    name, _, sparsity = text.partition(":")
    try:
        part = float(sparsity)
    except ValueError:
        raise ValueError(f"variant is {text!r}; write dense, METHOD:SPARSITY, n:m, or axb:SPARSITY.") from None
    if re.fullmatch(r"\d+x\d+", name):
        return Prune(pattern=name, sparsity=part)
    return Prune(method=name, sparsity=part)


def compress_variants(model: str, variants: Sequence[str], input_range: tuple[float, float] | None) -> dict[str, bytes]:
    """Returns {variant: its int8 file} of the Keras model at this path."""
    import tfdatafree

    recipes = {text: dataclasses.replace(tfdatafree.PRESETS["int8"], prune=parse_variant(text)) for text in variants}
    found = {}
    for text, recipe in recipes.items():
        found[text] = tfdatafree.compress(model, recipe, input_range=input_range, verbose=0).tflite
        print(f"{text}: compressed", file=sys.stderr)
    return found


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table; sizes have their ratio to the first row."""
    first = rows[0]
    titles = ["file", "bytes", "gzip", "zeros", "MACs"]
    titles += ["NPU file", "NPU weights"] if first.npu_bytes is not None else []
    titles += ["latency"] if first.latency_ms is not None else []
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for row in rows:
        cells = [row.name, _sized(row.bytes, first.bytes), _sized(row.gzip_bytes, first.gzip_bytes)]
        cells += [f"{100 * row.zeros:.1f} %", _sized(row.macs, first.macs)]
        if row.npu_bytes is not None:
            cells += [_sized(row.npu_bytes, first.npu_bytes), _sized(row.npu_weight_bytes, first.npu_weight_bytes)]
        if row.latency_ms is not None:
            cells += [f"{row.latency_ms:.2f} ms ({row.latency_ratio:.2f}x)"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _sized(value: int, reference: int) -> str:
    return f"{value:,} ({value / max(reference, 1):.2f}x)"


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "A Keras model to compress, instead of files.")
    flags.DEFINE_list("variants", "dense,obs:0.6,channel:0.5", "What to make of the model.")
    flags.DEFINE_list("input_range", None, "LOW,HIGH of the model's inputs.")
    flags.DEFINE_string("output", None, "Folder for the files that are made.")
    flags.DEFINE_integer("latency", 0, "Rounds of latency measurements; 0 for none.", lower_bound=0)
    flags.DEFINE_bool("npu", False, "Compile the files with Vela, too.")
    flags.DEFINE_string("json", None, "Also write the rows here.")


def main(arguments: list[str]) -> None:
    values = flags.FLAGS
    if (values.model is None) == (len(arguments) < 2):
        raise app.UsageError("Give .tflite files, or --model=net.keras.")
    if values.model is None:
        files = {path: Path(path).read_bytes() for path in arguments[1:]}
    else:
        ends = None if values.input_range is None else tuple(float(end) for end in values.input_range)
        files = compress_variants(values.model, values.variants, ends)
        for name, content in files.items() if values.output else ():
            path = Path(values.output) / f"{re.sub('[^a-z0-9.]', '_', name)}.tflite"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    rows = measure(files, npu=values.npu, rounds=values.latency)
    print(table(rows))
    command.write_json(values.json, [dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _define_flags()
    app.run(main)
