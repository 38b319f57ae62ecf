"""Compares searched, uniform and random weight bits at equal file sizes, on labelled images.

    python tools/bit_search.py --zoo=../shared/zoo --model=mobilenet_v1_025 --sizes=0.65,0.8 --random=8 --random_limit=300

A size is a part of the int8 file's bytes. For each size, the tool measures the file that `Recipe(policy=Search(size=...))`
makes, and --random files of at most the same size. A random file gives 8 bits to layers in a random order, to each
layer that still fits. Two further files have 8 bits and 4 bits everywhere. All files store 4-bit weights two to a byte,
and LiteRT runs them. Nothing is learned from the images.
"""

import glob
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import command
import evaluate
import zoo

# Bytes that mixed widths may add: to a layer's buffer beside its weights, and to a file beside its buffers.
_PER_LAYER, _PER_FILE = 16, 256


def compress(model, input_range: tuple[float, float], *, size: float | None = None, bits=8, seed: int = 0):
    """Makes the file of one row: bits searched for `size`, or the same for all layers, or {layer: bits}."""
    import tfdatafree
    from tfdatafree import Quantize, Recipe, Rule, Search

    if size is not None:
        recipe = Recipe(policy=Search(size=size))
    elif isinstance(bits, Mapping):
        rules = tuple(Rule(glob.escape(layer), weight_bits=width) for layer, width in bits.items())
        recipe = Recipe(quantize=Quantize(int4=True), rules=rules)
    else:
        recipe = Recipe(quantize=Quantize(weight_bits=bits, int4=True))
    return tfdatafree.compress(model, recipe, input_range=input_range, seed=seed, verbose=0)


def random_bits(weights: Mapping[str, int], spare: int, random: np.random.Generator) -> dict[str, int]:
    """Draws 4 or 8 bits for each layer: in random order, 8 for each layer whose further bytes still fit into `spare`."""
    bits = dict.fromkeys(weights, 4)
    spare -= _PER_FILE
    for layer in random.permutation(list(weights)):
        more = weights[layer] // 2 + _PER_LAYER
        if more <= spare:
            bits[str(layer)], spare = 8, spare - more
    return bits


def measure(
    subject: zoo.Subject, folder: Path, sizes: list[float], draws: int, limits: tuple, seed: int, threads: int = 2
):
    """Yields a row per file. `limits`: number of images for most rows, and for the random ones, which are many."""
    model = subject.load_model(folder)
    x, y = subject.load_labelled(folder, limits[0])
    every, few = np.arange(len(y)), evaluate.spread(len(y), limits[1])
    reference = evaluate.predict(model, x, preprocess=subject.prepare)
    yield {"name": "float", **evaluate.score(y, reference)}

    def row(name: str, chosen: np.ndarray, size: float | None = None, **options) -> dict:
        started = time.perf_counter()
        compressed = compress(model, subject.input_range, size=size, seed=seed, **options)
        seconds = time.perf_counter() - started
        layers = {layer.layer: layer for layer in compressed.report.layers if layer.layer}
        outputs = evaluate.predict(compressed.tflite, x[chosen], threads, preprocess=subject.prepare)

        def scores(at: np.ndarray) -> dict:
            found, wanted = outputs[np.isin(chosen, at)], reference[at]
            return evaluate.score(y[at], found, wanted, evaluate.are_probabilities(found))

        return {
            "name": name,
            "bytes": len(compressed.tflite),
            "seconds": seconds,
            "bits": {key: layer.weight_bits for key, layer in layers.items()},
            "weights": {key: layer.weights for key, layer in layers.items()},
            **scores(chosen),
            "few": scores(few) if len(chosen) > len(few) else None,
        }

    whole, narrow = row("8 bits", every, bits=8), row("4 bits", every, bits=4)
    yield from (whole, narrow)
    for size in sizes:
        yield row("searched", every, size) | {"size": size}
        budget = int(size * whole["bytes"])
        for draw in range(draws):
            random = np.random.default_rng((seed, draw))
            bits = random_bits(narrow["weights"], budget - narrow["bytes"], random)
            drawn = row(f"random {draw}", few, bits=bits) | {"size": size}
            if drawn["bytes"] > budget:
                raise RuntimeError(
                    f"a random file takes {drawn['bytes']} bytes, more than {size:g} x {whole['bytes']}."
                )
            yield drawn


def markdown(rows: list[dict]) -> str:
    """Returns a table with one line per file; one line has the median and extremes of all random files of a size."""
    whole = next(row["bytes"] for row in rows if row["name"] == "8 bits")
    lines = ["| bits | bytes | of int8 | n | top-1 | agreement |", "|---|---:|---:|---:|---:|---:|"]

    def line(name: str, row: dict, scores: dict) -> str:
        size = f"{row['bytes']:,} | {100 * row['bytes'] / whole:.1f} %" if "bytes" in row else " | "
        agreement = f"{scores['agreement']:.4f}" if "agreement" in scores else ""
        return f"| {name} | {size} | {scores['n']} | {100 * scores['top1']:.2f} % | {agreement} |"

    for row in rows:
        if not row["name"].startswith("random"):
            lines.append(line(row["name"], row, row))
            if row.get("few"):
                lines.append(line(f"{row['name']}, on the random ones' images", row, row["few"]))
    for size in dict.fromkeys(row["size"] for row in rows if row["name"].startswith("random")):
        drawn = [row for row in rows if row["name"].startswith("random") and row["size"] == size]
        spans = []
        for key, factor, digits in (("top1", 100, 2), ("agreement", 1, 4)):
            values = factor * np.array([row[key] for row in drawn])
            spans.append(f"{np.median(values):.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})")
        largest = max(row["bytes"] for row in drawn)
        lines.append(
            f"| {len(drawn)} random, median | up to {largest:,} | {100 * largest / whole:.1f} % | {drawn[0]['n']} "
            f"| {spans[0]} % | {spans[1]} |"
        )
    return "\n".join(lines) + "\n"


def _define_flags() -> None:
    zoo.define_flags(model="mobilenet_v1_025")
    flags.DEFINE_list("sizes", ["0.65"], "Parts of the int8 file's bytes.")
    flags.DEFINE_integer("random", 8, "Random files per size.", lower_bound=0)
    flags.DEFINE_integer("limit", None, "Score this many images, spread evenly; all if not given.", lower_bound=1)
    flags.DEFINE_integer("random_limit", 300, "The same for random files.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the generated inputs and the random files.", lower_bound=0)
    flags.DEFINE_integer("threads", 2, "Of LiteRT; 1 is faster on a busy machine.", lower_bound=1)
    command.define_outputs()


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        sizes = [float(text) for text in values.sizes]
        if not all(0 < size <= 1 for size in sizes):
            raise ValueError(f"--sizes={','.join(values.sizes)}: each must be above 0 and at most 1.")
        folder = zoo.find_folder(values.zoo)
    subject = zoo.SUBJECTS[values.model]
    rows: list[dict] = []
    limits = (values.limit, min(values.random_limit, values.limit or values.random_limit))
    for row in measure(subject, folder, sizes, values.random, limits, values.seed, values.threads):
        rows.append(row)
        size = f"{row['bytes']:>10,} bytes  {row['seconds']:6.1f} s" if "bytes" in row else ""
        print(f"{row['name']:12} top-1 {100 * row['top1']:6.2f} %  {size}", flush=True)
        # Written after each row: a long run that is stopped leaves what it has measured.
        record = {"environment": command.environment(), "model": subject.name, "rows": rows}
        command.write_json(values.json, record)
    print(markdown(rows))
    command.write_text(values.markdown, markdown(rows))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command.run(main, _define_flags)
