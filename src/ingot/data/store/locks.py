"""Locks by name that die with their holder, so that several processes divide work without a collective."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ...core.atomic import one_line_of
from ...core.locks import Taken, taken


@contextlib.contextmanager
def lock(final: Path) -> Iterator[Taken]:
    """A lock on what will be under a name, dropped by the system when its holder dies; false where another process holds it.

    Where there are no locks (Taken.FREE), the rename decides. Raises RunError where nothing can be written.
    """
    path = final.parent / "locks" / final.name
    with one_line_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("wb")
    with opened as file:
        yield taken(file.fileno())
