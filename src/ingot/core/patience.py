"""Waiting for what another process makes, by looking at the disk: outside of collectives, whose patience would end before the work does.

What ends such a wait beside the work itself comes from who knows of it: a watcher raises where waiting has become vain (another rank has
failed, or is lost) or the end is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_watchers: list[Callable[[], None]] = []


@contextmanager
def watching(watcher: Callable[[], None]) -> Iterator[None]:
    """Within, waits ask the watcher too."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def until(done: Callable[[], bool], every: float = 0.2) -> None:
    """Look again and again, seconds apart, until it is done. Raises what a watcher raises."""
    while not done():
        for watcher in tuple(_watchers):
            watcher()
        time.sleep(every)
