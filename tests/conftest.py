"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; threads that wait for a core spin
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take longest come first, so that none is left to run alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: `BET_DATA_DIR`, or `../shared/data` beside the repository. Absent: the test skips."""
    folder = Path(os.environ.get("BET_DATA_DIR") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("needs the real data: set BET_DATA_DIR to the folder that holds pusht/ and blockpush/")
    return folder
