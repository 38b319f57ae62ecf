"""What all tests share: silence, a check of the models they share, and the zoo of trained models that some measure on.

The zoo is the folder that the environment variable TFDATAFREE_ZOO names, else ../shared/zoo beside the repository.
Tests marked `@pytest.mark.zoo` are skipped where there is none.
"""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:
    # One process per core: more threads in each would wait for one another.
    for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
    # Looking for cycles among TensorFlow's many objects takes a few percent of the time.
    gc.set_threshold(100_000, 50, 100)

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "zoo"


def _zoo() -> Path | None:
    folder = Path(os.environ.get("TFDATAFREE_ZOO") or _BESIDE)
    return folder if folder.is_dir() else None


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("TFDATAFREE_ZOO") and _zoo() is None:
        raise pytest.UsageError(f"TFDATAFREE_ZOO is {os.environ['TFDATAFREE_ZOO']!r}, which is no folder.")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process per core, at most four; none besides this one for a single file."""
    single_file = len(config.args) == 1 and ".py" in config.args[0]
    return 0 if single_file else min(4, os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files about the same integer files run one after another, in the process that has written these."""
    items.sort(key=lambda item: hasattr(getattr(item, "module", None), "exported"))


@pytest.fixture(scope="module", autouse=True)
def shared_models_stay_as_they_are() -> Iterator[None]:
    """Tests share one model of each difficulty, so whoever changes one is told."""
    yield
    tiny_models = sys.modules.get("tiny_models")  # not imported for files that do without
    assert tiny_models is None or tiny_models.changed_models() == [], (
        "a test of this file changed models of `build`; use `fresh`"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("zoo") and _zoo() is None:
        pytest.skip("there is no zoo of trained models: set TFDATAFREE_ZOO to its folder")


@pytest.fixture(scope="session")
def zoo() -> Path:
    """Folder of the trained models, for tests marked `zoo`."""
    folder = _zoo()
    if folder is None:
        pytest.skip("there is no zoo of trained models: set TFDATAFREE_ZOO to its folder")
    return folder
