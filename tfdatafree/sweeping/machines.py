"""Where the jobs of a sweep run: this process, workers on this machine, or a cluster. Needs neither TensorFlow nor dask."""

import os
from dataclasses import dataclass

from tfdatafree.errors import MissingPackageError
from tfdatafree.recipe.check import require_whole

# Bytes that a worker on this machine may take, unless the user says otherwise.
MEMORY = 8 * 10**9
# One thread computes, so that sums have one order, whatever the number of cores. Set before TensorFlow is imported.
ONE_THREAD = {
    name: "1"
    for name in (
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
    )
}


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Where jobs run; `sweep` explains each.

    Attributes:
        workers: Processes on this machine; None: as many as cores and memory allow; 0: this process.
        memory: Bytes that a worker on this machine may take.
        scheduler: Address of a cluster's scheduler; None: this machine.
    """

    workers: int | None = None
    memory: int = MEMORY
    scheduler: str | None = None

    def __post_init__(self):
        if self.workers is not None:
            require_whole("workers", self.workers, 0)
            if self.scheduler is not None:
                raise ValueError("workers are processes on this machine, but a scheduler is given; leave one out.")
        require_whole("memory", self.memory, 1)

    @property
    def needs_dask(self) -> bool:
        return self.workers != 0


def require_distributed() -> None:
    """Raises MissingPackageError if dask.distributed is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "sweeps run on dask.distributed, which is not installed; run: pip install '.[sweep]' (or: pip install "
            "distributed), or compute in this process with workers=0 (command line: --workers=0)."
        ) from error


def default_workers(memory: int) -> int:
    """Workers that this machine has cores and memory for, at least 1."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), total // memory))
