"""Fixtures of the tests on transforms."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from _growth import Growth


@pytest.fixture
def growth() -> type[Growth]:
    """The class: growth(model section) is a small fp64 model with an optimizer, ready to be trained and grown."""
    return Growth
