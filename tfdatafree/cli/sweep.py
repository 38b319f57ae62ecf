"""`tfdatafree sweep`: compresses models in many ways, and says which file to take."""

import os
import sys
from pathlib import Path

from absl import flags

from tfdatafree.cli.command import (
    AND_MORE,
    Command,
    Flags,
    add_inputs,
    find_recipe,
    given_range,
    number,
    numbers,
    require_file,
)
from tfdatafree.errors import printable
from tfdatafree.files import require_writable_name
from tfdatafree.inputs.input_files import require_readable
from tfdatafree.recipe.size import parse_bytes, parse_size
from tfdatafree.report.plots import require_bokeh
from tfdatafree.sweeping.machines import ONE_THREAD, Machines, require_distributed
from tfdatafree.targets.registry import NAMES_WITH_PARTS, TARGETS, get_target

_FAILED = 3


def _define(options: Flags) -> None:
    options.add(
        "output",
        None,
        "Folder of the results. Required. What it holds of this sweep is kept.",
        meta="FOLDER",
        short="o",
    )
    options.add("recipes", "int8", "Presets and recipe files.", meta="NAME|FILE,...")
    options.add(
        "sparsity", None, "Sparsities to set in each recipe; 0: none; auto as for compress.", meta="PART|auto,..."
    )
    options.add("size", None, "Sizes to set in each recipe, as for compress; 1: no search.", meta="PART|BYTES,...")
    options.add("targets", "generic", f"Targets: {', '.join(TARGETS)}. {NAMES_WITH_PARTS}", meta="NAME,...")
    add_inputs(options)
    options.add(
        "workers",
        None,
        "Processes of one thread each; 0: this one (default: as many as cores and memory allow).",
        meta="N",
    )
    options.add("memory", "8GB", "Memory that a worker may take. A point that takes more fails.", meta="BYTES")
    options.add(
        "scheduler", None, "Scheduler of a dask cluster to use in place of this machine.", meta="tcp://HOST:PORT"
    )
    options.add("pages", True, "Write the report page of each point; --nopages leaves them out.")
    options.add("latency", False, "Time each file on this CPU when all are made.")
    options.add("max_bytes", None, "Largest size of the file to recommend.", meta="BYTES")
    options.add("max_gzip_bytes", None, "Its largest size after gzip.", meta="BYTES")
    options.add(
        "max_ms", None, "Its most milliseconds, on a target with Vela or, with --latency, on this CPU.", meta="MS"
    )
    options.add("min_agreement", None, "Its smallest estimated agreement, e.g. 0.95.", meta="PART")
    options.add("seed", 0, "The same seed gives the same bytes.", meta="N", lower=0)
    options.add(
        "unsafe_load", False, "Run Python code stored in the models (Lambda layers). Only for models you trust."
    )
    options.add("quiet", False, "Print nothing but errors.")


def _run(values: flags.FlagValues, *models: str) -> int:
    if values.output is None:
        raise ValueError("there is no output; add -o FOLDER.")
    recipes = [find_recipe(text) for text in _listed(values.recipes)]
    targets = _listed(values.targets)
    for target in targets:
        get_target(target)
    machines = Machines(
        workers=number("workers", values.workers, int, "2"),
        memory=parse_bytes("memory", values.memory),
        scheduler=values.scheduler,
    )
    arguments = {
        "sparsity": [
            text if text == "auto" else number("sparsity", text, float, "0,0.3,0.5")
            for text in _listed(values.sparsity)
        ],
        "size": [parse_size("size", text) for text in _listed(values.size)],
        "input_range": given_range(values.input_range),
        "input_shape": numbers("input_shape", values.input_shape, int, "224,224,3"),
        "representative_data": values.representative_data,
        "max_bytes": _bytes("max_bytes", values.max_bytes),
        "max_gzip_bytes": _bytes("max_gzip_bytes", values.max_gzip_bytes),
        "max_ms": number("max_ms", values.max_ms, float, "5"),
        "min_agreement": number("min_agreement", values.min_agreement, float, "0.95"),
    }
    for model in models:
        require_file(model)
    require_writable_name(Path(values.output).absolute())
    if values.representative_data is not None:
        require_readable(values.representative_data)
    if values.pages:
        require_bokeh()
    if machines.needs_dask:
        require_distributed()
    else:
        os.environ.update(ONE_THREAD)  # before TensorFlow is imported
    from tfdatafree.sweeping.sweep import PAGE, RECORD, TABLE, sweep

    result = sweep(
        list(models),
        recipes,
        folder=values.output,
        targets=targets,
        workers=machines.workers,
        memory=machines.memory,
        scheduler=machines.scheduler,
        pages=values.pages,
        latency=values.latency,
        seed=values.seed,
        unsafe_load=values.unsafe_load,
        tell=_silent if values.quiet else _tell,
        **arguments,
    )
    if not values.quiet:
        print(printable(str(result)))
        print()
        for name in (TABLE, RECORD, PAGE):
            print(f"wrote {result.folder / name}")
    return _FAILED if len(result.failures) == len(result.rows) else 0


def _listed(text: str | None) -> list[str]:
    return [] if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _bytes(name: str, text: str | None) -> int | None:
    return None if text is None else parse_bytes(name, text)


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    """Says nothing."""


COMMAND = Command(
    ("MODEL", AND_MORE),
    "-o FOLDER",
    "Compresses models in many ways, side by side, and says which file to take.",
    "MODEL is a .keras or .h5 file. A sweep that was ended goes on where it was when the same command runs again.",
    "tfdatafree sweep mobilenet.keras -o swept --sparsity=0,.3,.5 --size=1,.7 --max_bytes=400kB",
    _define,
    _run,
)
