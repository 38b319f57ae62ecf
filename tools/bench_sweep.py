"""What a sweep costs: two workers against one, and what limits a hundred workers with a thousand models.

    python tools/bench_sweep.py --models=net.keras --recipes=int8,int16x8
    python tools/bench_sweep.py --record=swept/sweep.json --workers=100 --simulated_models=1000

The first form sweeps in fresh folders with one worker and with two, and compares tables and times. The second one takes the
processor seconds of the points of a finished sweep, and

1. lets workers of a real dask cluster in this process sleep through jobs of these durations, scaled down, with results as large
   as real ones, and measures the processor time of scheduler, client and writing per point;
2. simulates the sweep as a queue: each worker has one job and one in reserve; scheduler and client are one server that takes so
   much time for each point. It tells the time, how busy workers and server are, and how many workers the server can feed.
"""

import heapq
import json
import logging
import os
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import command

# Jobs for each worker: one that runs, and one in reserve, as `sweeping/cluster.py` submits them.
_AHEAD = 2


def simulate(durations: np.ndarray, workers: int, service: float) -> dict[str, float]:
    """The sweep as a queue; times in seconds.

    Args:
        durations: Of the jobs, in the order in which they are submitted.
        workers: Number of workers.
        service: Time that the server (scheduler and client) takes to record a result and submit the next job.

    Returns:
        "makespan"; "busy", the part of it that workers compute; "server", the part of it that the server works.
    """
    waiting = deque(map(float, durations))
    queued = [0] * workers  # jobs at each worker, the running one included
    reserve: list[deque] = [deque() for _ in range(workers)]
    ends: list[tuple[float, int]] = []
    free_at, last = 0.0, 0.0

    def submit(worker: int, now: float) -> None:
        if not waiting:
            return
        duration = waiting.popleft()
        queued[worker] += 1
        if queued[worker] == 1:
            heapq.heappush(ends, (now + duration, worker))
        else:
            reserve[worker].append(duration)

    for _ in range(_AHEAD):
        for worker in range(workers):
            free_at += service
            submit(worker, free_at)
    arrivals: list[tuple[float, int]] = []
    while ends or arrivals:
        if arrivals and (not ends or max(free_at, arrivals[0][0]) <= ends[0][0]):
            arrived, worker = heapq.heappop(arrivals)
            free_at = max(free_at, arrived) + service
            submit(worker, free_at)
            last = free_at
            continue
        now, worker = heapq.heappop(ends)
        queued[worker] -= 1
        if reserve[worker]:
            heapq.heappush(ends, (now + reserve[worker].popleft(), worker))
        heapq.heappush(arrivals, (now, worker))
    total = float(np.sum(durations))
    return {"makespan": last, "busy": total / (workers * last), "server": len(durations) * service / last}


def measured_service(durations: np.ndarray, workers: int, result_bytes: int, speedup: float) -> dict[str, float]:
    """Processor seconds per point of scheduler, client, in-process workers and writing, with jobs that sleep."""
    from distributed import Client, LocalCluster

    from tfdatafree.recipe.recipe import PRESETS
    from tfdatafree.sweeping.cluster import run_jobs
    from tfdatafree.sweeping.points import Point, Source
    from tfdatafree.sweeping.store import Store
    from tfdatafree.sweeping.work import Job, Result

    logging.getLogger("distributed").setLevel(logging.ERROR)
    content = os.urandom(result_bytes)

    def sleeping(job: Job, model: bytes) -> Result:
        time.sleep(job.arguments["seconds"])
        return Result(figures={"bytes": len(model)}, files={"model.tflite": os.urandom(len(model))})

    def pair(at: int) -> tuple[Point, Job]:
        source = Source(name=f"model{at // 12}", file="m.keras", digest="", content=content)
        common = {"sparsity": None, "size": None, "target": "generic", "trouble": ""}
        recipe = PRESETS["int8"]
        point = Point(source=source, recipe=recipe, name=str(at), key=f"{at:064x}"[::-1], **common)
        seconds = {"seconds": float(durations[at]) / speedup}
        return point, Job(key=f"{at:064x}", title="", file="", recipe=recipe, arguments=seconds, pages=False)

    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=":0", silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        store = Store(Path(folder))
        cpu, clock = time.process_time(), time.perf_counter()
        for point, result in run_jobs(client, map(pair, range(len(durations))), lambda line: None, sleeping):
            store.put(point, result)
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    ideal = float(np.sum(durations)) / speedup / workers
    return {"cpu_seconds_per_point": cpu / len(durations), "seconds": clock, "ideal_seconds": ideal}


def compare_workers(models: list[str], recipes: list[str]) -> dict[str, dict[str, float]]:
    """{"1 worker", "2 workers"}: seconds by the clock, processor seconds of the points. Raises ValueError if tables differ."""
    from tfdatafree import sweep

    found, tables = {}, []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            swept = sweep(models, recipes, folder=folder, workers=workers, pages=False)
            seconds = time.perf_counter() - started
            points = json.loads((swept.folder / "sweep.json").read_text())["points"]
            tables.append((swept.folder / "sweep.csv").read_bytes())
        name = f"{workers} worker{'s' if workers > 1 else ''}"
        found[name] = {"seconds": seconds, "cpu_seconds": sum(point["cpu_seconds"] for point in points)}
    if tables[0] != tables[1]:
        raise ValueError("the tables differ; sums have to have one order whatever the number of workers.")
    return found


def _define_flags() -> None:
    flags.DEFINE_list("models", [], "Models to sweep with one worker and with two.")
    flags.DEFINE_list("recipes", ["int8", "int16x8"], "Recipes of that sweep.")
    flags.DEFINE_string("record", None, "sweep.json of a finished sweep, for the durations.")
    flags.DEFINE_integer("workers", 100, "Workers of the simulation.", lower_bound=1)
    flags.DEFINE_integer("simulated_models", 1000, "Models of the simulation.", lower_bound=1)
    flags.DEFINE_integer("points", 12, "Points of each model.", lower_bound=1)
    flags.DEFINE_integer("sleeping", 1200, "Points of the cluster whose workers sleep.", lower_bound=1)
    flags.DEFINE_integer(
        "sleepers", 10, "Workers of that cluster; hundreds in one process cost more than real ones.", lower_bound=1
    )
    flags.DEFINE_float("speedup", 10.0, "How much shorter they sleep.", lower_bound=1)
    flags.DEFINE_integer("result_bytes", 1_500_000, "Bytes of a point's files.", lower_bound=0)
    command.define_outputs("tables")


def main(values: flags.FlagValues) -> int:
    figures: dict = {"environment": command.environment()}
    lines = []
    if values.models:
        with command.input_errors():
            figures["workers"] = compare_workers(values.models, values.recipes)
        lines += ["| | seconds | processor seconds of the points |", "|---|---:|---:|"]
        lines += [
            f"| {name} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} |" for name, row in figures["workers"].items()
        ]
    if values.record:
        points = json.loads(Path(values.record).read_text())["points"]
        known = np.array([point["cpu_seconds"] for point in points if not point["error"]])
        random = np.random.default_rng(0)
        few = random.choice(known, values.sleeping)
        service = measured_service(few, values.sleepers, values.result_bytes, values.speedup)
        figures["sleeping"] = service
        per_point = service["cpu_seconds_per_point"]
        lines += [
            f"a point takes {known.mean():.2f} processor seconds on a worker (mean of {len(known)}), and "
            f"{1000 * per_point:.1f} ms of scheduler, client and writing",
            f"{values.sleeping} sleeping points on {values.sleepers} workers took "
            f"{service['seconds']:.1f} s, ideally {service['ideal_seconds']:.1f}",
            "",
            "| workers | hours | workers busy | server busy |",
            "|---:|---:|---:|---:|",
        ]
        durations = random.choice(known, values.simulated_models * values.points)
        figures["simulated"] = {}
        for workers in (1, values.workers // 4, values.workers, 4 * values.workers, 16 * values.workers):
            row = figures["simulated"][workers] = simulate(durations, max(1, workers), per_point)
            lines.append(f"| {workers} | {row['makespan'] / 3600:.3f} | {row['busy']:.1%} | {row['server']:.1%} |")
        lines += ["", f"the server can feed {known.mean() / per_point:.0f} workers"]
    text = "\n".join(lines)
    print(text)
    command.write_json(values.json, figures)
    command.write_text(values.markdown, text + "\n")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command.run(main, _define_flags)
