"""What all tests share: silence, and the zoo of trained models that some of them measure on.

The zoo is the folder that the environment variable TFDATAFREE_ZOO names, else ../shared/zoo beside the repository.
Tests marked `@pytest.mark.zoo` are skipped where there is none.
"""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "zoo"


def _zoo() -> Path | None:
    folder = Path(os.environ.get("TFDATAFREE_ZOO") or _BESIDE)
    return folder if folder.is_dir() else None


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("TFDATAFREE_ZOO") and _zoo() is None:
        raise pytest.UsageError(f"TFDATAFREE_ZOO is {os.environ['TFDATAFREE_ZOO']!r}, which is no folder.")


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
