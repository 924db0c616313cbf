"""Writing whole or not at all: aside, flushed to the disk, then renamed. A kill or a power cut leaves the old content or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import RunError

# What file systems answer that cannot flush a folder's entries; they need no flushing, or offer none.
_NO_FLUSH = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EBADF})


@contextmanager
def one_line_of(path: Path) -> Iterator[None]:
    """What the system says of a disk that is full or may not be written becomes a RunError of one line that names ``path``."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, beside ``path`` and with its suffix; when the block ends well, what is there replaces ``path``.

    Its folder is made. Raises RunError when the disk does not take it; whatever goes wrong, nothing stays aside.
    """
    aside = path.with_name(f"{path.stem}.aside-{_process()}{path.suffix}")
    with one_line_of(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            _flush(aside)
            os.replace(aside, path)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Make ``path`` hold this text, as UTF-8. Raises RunError when the disk does not take it."""
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(final: Path, mark: str = "") -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends well, it becomes ``final``. Where another process was faster, its folder stays.

    mark: a file that a whole folder has. Raises RunError when the disk does not take it; whatever goes wrong, nothing stays aside.
    """
    aside = aside_of(final)
    with one_line_of(final):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            yield aside
            for path in aside.rglob("*"):
                if path.is_file():
                    _flush(path)
            settle(aside, final, mark)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def aside_of(final: Path) -> Path:
    """Where this process fills a folder that is to become ``final``."""
    return final.with_name(f"{final.name}.aside-{_process()}")


def _process() -> str:
    """This process among all that may write to the same disk, from several machines."""
    return f"{re.sub('[^A-Za-z0-9-]', '_', platform.node())[:64]}-{os.getpid()}"


def settle(aside: Path, final: Path, mark: str = "") -> None:
    """Rename a filled folder, unless a whole one is there already, which then stays. mark: a file that a whole one has. Raises OSError."""
    sync_folder(aside)
    try:
        os.rename(aside, final)
    except OSError:
        if not (final / mark).exists():
            raise
        shutil.rmtree(aside, ignore_errors=True)
    sync_folder(final.parent)


def flush(file: IO[Any]) -> None:
    """Put on the disk what was written to an open file. Raises OSError."""
    file.flush()
    os.fsync(file.fileno())


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a folder's entries (new files, renames) survive a power cut, where the file system can. Raises OSError when the disk fails."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
    finally:
        os.close(handle)
