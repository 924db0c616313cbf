"""Locks that the system drops when their holder ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

from .errors import RunError


class Taken(IntEnum):
    """What came of asking for a lock; false where another process holds it. FREE: nothing is held, where there are no locks."""

    ELSEWHERE = 0
    FREE = 1
    HELD = 2


def taken(handle: int) -> Taken:
    """Lock an open file or folder, without waiting. FREE where the system or the disk has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return Taken.FREE
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Taken.ELSEWHERE
    except OSError:
        return Taken.FREE
    return Taken.HELD


@contextmanager
def alone_in(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder while the block runs; it is made. Nothing is held where it cannot be made.

    doing: what is done there, for people, such as ``trains in``. Raises RunError at once where another process holds it.
    """
    handle = None
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        if handle is not None and not taken(handle):
            raise RunError(f"another process {doing} {folder}: wait for its end, or choose another folder")
        yield
    finally:
        if handle is not None:
            os.close(handle)
