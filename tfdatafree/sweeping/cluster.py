"""Carries out jobs on workers of dask.distributed: processes of this machine, or a cluster that a scheduler leads.

A model travels to the cluster once, and from worker to worker only where a second one needs it. It is dropped after its last job.
Only as many jobs are submitted as keep all workers busy, so that neither models nor results pile up.
"""

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tfdatafree.files import temporary_folder
from tfdatafree.limits import MEMORY_GB
from tfdatafree.sweeping.machines import ONE_THREAD
from tfdatafree.sweeping.points import Point
from tfdatafree.sweeping.work import Job, Result, do

# Jobs in the cluster per thread of its workers: one that runs, and one that waits.
_AHEAD = 2
# Topic of the workers' messages, and how keys of jobs begin.
_TOPIC = "tfdatafree"


@contextlib.contextmanager
def local_cluster(workers: int, memory: int) -> Iterator[Any]:
    """A client of a cluster on this machine: processes of one thread each.

    Args:
        memory: Bytes that a worker may take. A worker that takes more is ended, and its point fails.
    """
    import dask
    from distributed import Client, LocalCluster

    environment = ONE_THREAD | {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        MEMORY_GB: os.environ.get(MEMORY_GB) or f"{memory / 1e9:g}",
    }
    settings = {
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.comm.timeouts.connect": "60s",
        # What dask expects of a job that it knows nothing of. With its own half second all jobs of a model would wait for the
        # worker that holds the model.
        "distributed.scheduler.default-task-durations": {_TOPIC: "60s"},
    }
    with (
        dask.config.set(settings),
        temporary_folder() as folder,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=memory,
            dashboard_address=":0",  # any free port of this machine, and no dashboard behind it
            scheduler_kwargs={"dashboard": False},
            local_directory=folder,
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextlib.contextmanager
def remote_cluster(address: str) -> Iterator[Any]:
    """A client of the cluster that the scheduler at `address` leads. Raises ValueError if none answers."""
    from distributed import Client

    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"scheduler is '{address}', where no scheduler answers; start one with `dask scheduler`, and give its address, e.g. "
            "tcp://10.0.0.1:8786."
        ) from error
    with client:
        yield client


def compress_on_worker(job: Job, content: bytes) -> Result:
    """`do` on a worker, with a line about its start."""
    import keras
    from distributed import get_worker

    worker = get_worker()
    where = f"worker {worker.name} ({worker.address})"
    worker.log_event(_TOPIC, f"{job.title}: starts on {where}")
    keras.backend.clear_session()  # names of layers count up from what this process did before
    return dataclasses.replace(do(job, content), where=where)


def run_jobs(
    client: Any,
    jobs: Iterable[tuple[Point, Job]],
    tell: Callable[[str], None],
    work: Callable[[Job, bytes], Result] = compress_on_worker,
) -> Iterator[tuple[Point, Result]]:
    """The results of the jobs, in the order in which they end.

    Args:
        client: Of dask.distributed.
        jobs: Model by model, so that few models are in the cluster at a time.
        tell: Gets a line whenever a worker starts a job.
        work: What a worker does with a job and a model's bytes; `tools/bench_sweep.py` lets it sleep.
    """
    from distributed import as_completed

    jobs = list(jobs)
    left = Counter(point.source.name for point, _ in jobs)
    models: dict[str, Any] = {}
    points: dict[str, Point] = {}
    waiting, ended = iter(jobs), as_completed()
    client.subscribe_topic(_TOPIC, lambda event: tell(event[1]))

    def submit() -> bool:
        point, job = next(waiting, (None, None))
        if point is None or job is None:
            return False
        name = point.source.name
        if name not in models:
            models[name] = client.scatter(point.source.read(), hash=False)
        future = client.submit(work, job, models[name], key=f"{_TOPIC}-{job.key}", pure=False)
        points[future.key] = point
        ended.add(future)
        return True

    def fill() -> None:
        threads = sum(client.nthreads().values())
        while len(points) < max(1, _AHEAD * threads) and submit():
            pass

    fill()
    for future in ended:
        point = points.pop(future.key)
        result = _result_of(future)
        future.release()
        left[point.source.name] -= 1
        if not left[point.source.name]:
            del models[point.source.name]
        fill()
        yield point, result
    client.unsubscribe_topic(_TOPIC)


def _result_of(future: Any) -> Result:
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        text = (
            "the worker ended while it computed this point; most likely it took more memory than a worker may (memory)."
        )
    else:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Result(error=text, final=False)
