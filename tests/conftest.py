"""Fixtures shared by every test: the optional folder of real data, quiet and single-threaded torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it skip without it."""
    for folder in (os.environ.get("INGOT_TEST_DATA"), REPOSITORY.parent / "shared" / "data"):
        if folder and (Path(folder) / "README.md").is_file():
            return Path(folder)
    pytest.skip("no folder of real data (set INGOT_TEST_DATA)")
