"""A process group of one, taken down after the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ingot.parallel.start import Place, finish, start


@pytest.fixture
def group() -> Iterator[Place]:
    place = start()
    yield place
    finish()
