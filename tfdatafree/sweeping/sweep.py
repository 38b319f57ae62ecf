"""sweep(): models x recipes x targets, compressed side by side; a table of files, and the one to take."""

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from tfdatafree.files import require_writable_name, temporary_folder, write_atomically
from tfdatafree.inputs.given_range import check_input_range
from tfdatafree.inputs.input_files import require_readable
from tfdatafree.limits import require_regular, require_seed
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.report.plots import require_bokeh
from tfdatafree.runtimes.latency import latencies
from tfdatafree.sweeping.choice import Budget, Choice, choose, front
from tfdatafree.sweeping.cluster import local_cluster, remote_cluster, run_jobs
from tfdatafree.sweeping.figures import COLUMNS, COSTS
from tfdatafree.sweeping.machines import MEMORY, Machines, default_workers, require_distributed
from tfdatafree.sweeping.page import sweep_page
from tfdatafree.sweeping.points import Options, Point, Source, digest_of, make_points, name_paths, versions
from tfdatafree.sweeping.store import POINTS, Store
from tfdatafree.sweeping.work import FILE, RECIPE, Job, Result, do
from tfdatafree.sweeping.work import PAGE as REPORT_PAGE
from tfdatafree.sweeping.work import RECORD as REPORT

TABLE, RECORD, PAGE = "sweep.csv", "sweep.json", "index.html"
_ROUNDS = 20  # of timing


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What `sweep` found; `print` it.

    Attributes:
        folder: Where everything is: sweep.csv, sweep.json, index.html, and the files of each point.
        rows: One per point, as in sweep.csv: column -> value; None where there is none.
        choices: (model, target) -> the row that is recommended, and why.
    """

    folder: Path
    rows: tuple[dict[str, Any], ...]
    choices: Mapping[tuple[str, str], Choice]

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The rows without a file."""
        return [row for row in self.rows if row["error"]]

    def __str__(self) -> str:
        lines = [f"{len(self.rows)} points, {len(self.failures)} without a file"]
        for (model, target), choice in self.choices.items():
            name = model if target == "generic" else f"{model} on {target}"
            taken = "none" if choice.row is None else choice.row["file"]
            lines += ["", f"{name}: {taken}", f"  {choice.why}"]
        return "\n".join(lines)


def sweep(
    models: Any,
    recipes: Sequence[str | os.PathLike | Recipe] = ("int8",),
    *,
    folder: str | os.PathLike,
    sparsity: Sequence[float | str] = (),
    size: Sequence[float] = (),
    targets: Sequence[str] = ("generic",),
    input_range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    input_shape: tuple[int, ...] | None = None,
    representative_data: str | os.PathLike | None = None,
    seed: int = 0,
    unsafe_load: bool = False,
    workers: int | None = None,
    memory: int = MEMORY,
    scheduler: str | None = None,
    pages: bool = True,
    latency: bool = False,
    max_bytes: int | None = None,
    max_gzip_bytes: int | None = None,
    max_ms: float | None = None,
    min_agreement: float | None = None,
    tell: Callable[[str], None] = logging.info,
) -> Sweep:
    """Compresses each model with each recipe, sparsity and size for each target, and says which file to take.

    Points that `folder` already holds are not computed again, so that a sweep that was ended at any moment can be called again.
    The table and the files are the same whatever the number of workers. A script that calls this has to keep it under
    `if __name__ == "__main__":`, because workers are processes that import the script.

    Args:
        models: A Keras model, the path of a .keras or .h5 file, a sequence of them, or a dict from names to them.
        recipes: Presets, recipe files or Recipes.
        folder: Where the results are written. It is made if it does not exist.
        sparsity: Sparsities to set in each recipe; 0 takes pruning out, "auto" is as for `Prune`. Empty: as the recipes have it.
        size: Sizes to set in each recipe, as for `Search`; 1 takes the search out. Empty: as the recipes have it.
        targets: Names of targets.
        input_range, input_shape, seed, unsafe_load: As for `compress`, for all models.
        representative_data: As for `compress`, as a path that every worker can read.
        workers: Processes of one thread each on this machine; None: as many as cores and memory allow. 0: this process, without
            dask.
        memory: Bytes that a worker on this machine may take. A point that takes more fails.
        scheduler: Address of the scheduler of a dask cluster, e.g. "tcp://10.0.0.1:8786"; None: workers on this machine.
        pages: Whether each point gets its report page.
        latency: Measure each file on this CPU when all are made.
        max_bytes, max_gzip_bytes: Largest size of the file to recommend, and after gzip.
        max_ms: Most milliseconds of one inference: those that the target's compiler tells, else those that `latency` measures.
        min_agreement: Smallest estimated agreement of the file to recommend, 0 to 1.
        tell: Gets a line whenever a point starts or ends.

    Returns:
        A Sweep. A point that failed is a row with its error.

    Raises:
        LoadError: A model's file is missing.
        MissingPackageError: dask.distributed is not installed, or Bokeh, which draws the report pages.
        ValueError: An option is wrong, or no scheduler answers.
    """
    budget = Budget(max_bytes=max_bytes, max_gzip_bytes=max_gzip_bytes, max_ms=max_ms, min_agreement=min_agreement)
    folder = Path(folder)
    require_writable_name(folder.absolute())
    machines = Machines(workers=workers, memory=memory, scheduler=scheduler)
    if pages:
        require_bokeh()
    if representative_data is not None:
        require_readable(representative_data)
    if machines.needs_dask:
        require_distributed()
    options = Options(
        input_range=None if input_range is None else check_input_range(input_range),
        input_shape=input_shape,
        representative_data=None if representative_data is None else os.fspath(Path(representative_data).absolute()),
        seed=require_seed(seed),
        unsafe_load=unsafe_load,
        pages=pages,
    )
    points = make_points(sources_of(models), recipes, sparsity=sparsity, size=size, targets=targets, options=options)
    folder.mkdir(exist_ok=True)
    store = Store(folder)
    found = {point.folder: record for point in points if (record := store.find(point, page=pages)) is not None}
    left = [point for point in points if point.folder not in found]
    tell(f"{len(points)} points: {len(found)} are there, {len(left)} to compute")
    for point in left:
        if point.recipe is None:
            found[point.folder] = store.put(point, Result(error=point.trouble))
    jobs = [(point, _job(point, options)) for point in left if point.recipe is not None]
    for point, result in _results(jobs, machines, tell):
        found[point.folder] = store.put(point, result)
        ended = result.error or f"{result.figures['bytes']:,} bytes"
        tell(
            f"{len(found)} of {len(points)}: {point.title}: {ended.rstrip('.')}; {result.seconds:.1f} s on {result.where}"
        )
    rows = [_row(point, found[point.folder]) for point in points]
    if latency:
        tell("timing the files on this CPU")
        _measure(rows, folder)
    swept = Sweep(folder=folder, rows=tuple(rows), choices=_judged(rows, budget))
    _write(swept, [found[point.folder] for point in points], budget)
    return swept


# Models -----------------------------------------------------------------------------------------------------------------


def sources_of(models: Any) -> list[Source]:
    """The models with their names and hashes.

    Raises:
        LoadError: A file is missing.
        ValueError: There is no model, one is given twice, or is neither a model nor a path.
    """
    if isinstance(models, (str, os.PathLike, keras.Model)):
        models = [models]
    names = list(models) if isinstance(models, Mapping) else None
    given = list(models.values() if isinstance(models, Mapping) else models)
    if not given:
        raise ValueError("models is empty; give at least one model.")
    if names is None:
        paths = [Path(model) for model in given if isinstance(model, (str, os.PathLike))]
        of_paths = iter(name_paths(paths))
        names = [next(of_paths) if isinstance(model, (str, os.PathLike)) else _model_name(model) for model in given]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"models have the name {sorted(twice)[0]!r} twice; give a dict from names of your own to models."
        )
    return [_source(name, model) for name, model in zip(names, given, strict=True)]


def _model_name(model: Any) -> str:
    if not isinstance(model, keras.Model):
        raise ValueError(f"models hold a {type(model).__name__}; give Keras models or paths of .keras or .h5 files.")
    return model.name


def _source(name: str, model: Any) -> Source:
    if isinstance(model, (str, os.PathLike)):
        require_regular(model)
        return Source(name=name, file=Path(model).name, digest=str(digest_of(model)), path=Path(model))
    digest = hashlib.sha256(model.to_json().encode())  # a saved file holds the time at which it was saved
    for weights in model.get_weights():
        digest.update(weights.tobytes())
    with temporary_folder() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return Source(name=name, file=path.name, digest=digest.hexdigest(), content=path.read_bytes())


# Computing --------------------------------------------------------------------------------------------------------------


def _job(point: Point, options: Options) -> Job:
    assert point.recipe is not None, "a point without a recipe is not computed"
    return Job(
        key=point.key,
        title=point.title,
        file=point.source.file,
        recipe=point.recipe,
        arguments=options.arguments | {"target": point.target},
        pages=options.pages,
    )


def _results(
    jobs: Sequence[tuple[Point, Job]], machines: Machines, tell: Callable[[str], None]
) -> Iterator[tuple[Point, Result]]:
    """The results of the jobs as they come."""
    if not jobs:
        return
    if machines.scheduler is not None:
        with remote_cluster(machines.scheduler) as client:
            threads = client.nthreads()
            tell(f"{len(threads)} workers with {sum(threads.values())} threads; see {client.dashboard_link}")
            yield from run_jobs(client, jobs, tell)
    elif machines.workers == 0:
        for point, job in jobs:
            tell(f"{job.title}: starts in this process")
            yield point, do(job, point.source.read())
    else:
        count = default_workers(machines.memory) if machines.workers is None else machines.workers
        tell(f"{count} workers of one thread, each with at most {machines.memory / 1e9:g} GB of memory")
        with local_cluster(min(count, len(jobs)), machines.memory) as client:
            yield from run_jobs(client, jobs, tell)


# Results ----------------------------------------------------------------------------------------------------------------


def _row(point: Point, record: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a point, in the order of `COLUMNS`."""
    files = {name: f"{POINTS}/{point.folder}/{name}" for name in record["files"]}
    known = {
        "model": point.source.name,
        "recipe": point.name,
        "sparsity": point.sparsity,
        "size": point.size,
        "target": point.target,
        "error": record["error"],
        "file": files.get(FILE),
        "report": files.get(REPORT_PAGE, files.get(REPORT)),
        "recipe_file": files.get(RECIPE),
        "key": point.key,
        "front": "",
        "recommended": False,
    }
    return {column: known.get(column, record["figures"].get(column)) for column in COLUMNS}


def _measure(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Adds the milliseconds that the files take on this CPU. The files of a model take turns."""
    for model in dict.fromkeys(row["model"] for row in rows):
        files = [row for row in rows if row["model"] == model and not row["error"]]
        if files:
            seconds = latencies([(folder / row["file"]).read_bytes() for row in files], _ROUNDS)
            for row, median in zip(files, np.median(seconds, axis=0), strict=True):
                row["cpu_ms"] = 1000 * float(median)


def _judged(rows: Sequence[dict[str, Any]], budget: Budget) -> dict[tuple[str, str], Choice]:
    """Marks the rows on fronts and those that are recommended; the choice for each model on each target."""
    choices = {}
    for model, target in dict.fromkeys((row["model"], row["target"]) for row in rows):
        group = [row for row in rows if (row["model"], row["target"]) == (model, target)]
        for cost in COSTS:
            for row in front(group, cost):
                row["front"] = f"{row['front']} {cost}".strip()
        choice = choices[model, target] = choose(group, budget)
        for row in group:
            row["recommended"] = row is choice.row
    return choices


def _write(swept: Sweep, records: Sequence[Mapping[str, Any]], budget: Budget) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(swept.rows)
    write_atomically(swept.folder / TABLE, text.getvalue().encode())
    values = {
        "versions": versions(),
        "columns": COLUMNS,
        "budget": dataclasses.asdict(budget),
        "choices": [
            {"model": model, "target": target, "file": choice.row and choice.row["file"], "why": choice.why}
            for (model, target), choice in swept.choices.items()
        ],
        "points": [
            row | {name: record[name] for name in ("files", "seconds", "cpu_seconds", "where")}
            for row, record in zip(swept.rows, records, strict=True)
        ],
    }
    write_atomically(swept.folder / RECORD, (json.dumps(values, indent=2) + "\n").encode())
    write_atomically(swept.folder / PAGE, sweep_page(swept.rows, swept.choices, budget).encode())
