"""Content hashes of byte ranges of files, computed in parallel and remembered by the file's stat where a memory is given."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from ...core.atomic import write_text
from ...core.errors import RunError
from ...core.limits import cores

_BLOCK = 1 << 20
_memory: ContextVar[Path | None] = ContextVar("fingerprints", default=None)


@dataclass(frozen=True)
class Range:
    """Bytes [start, end) of a file."""

    path: Path
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def digest(*parts: object) -> str:
    """Hex hash of plain values, each kept apart from its neighbors."""
    return hashlib.blake2b(json.dumps(parts, default=str, ensure_ascii=True).encode(), digest_size=20).hexdigest()


@contextmanager
def remembered_in(path: Path) -> Iterator[None]:
    """Within this context, hashes of files whose size, times and inode did not change are taken from ``path``."""
    token = _memory.set(path)
    try:
        yield
    finally:
        _memory.reset(token)


def fingerprints(ranges: Sequence[Range]) -> list[str]:
    """Content hash of each range, in order."""
    path = _memory.get()
    known = _load(path)
    keys = [_key(item) for item in ranges]
    missing = [index for index, key in enumerate(keys) if key not in known]
    with ThreadPoolExecutor(max_workers=min(8, cores() + 1)) as pool:
        fresh = dict(zip(missing, pool.map(lambda index: _hash(ranges[index]), missing)))
    result = [fresh[index] if index in fresh else known[key] for index, key in enumerate(keys)]
    settled = {keys[index]: value for index, value in fresh.items() if _settled(ranges[index].path)}
    if path is not None and settled:
        _save(path, _load(path) | settled)
    return result


def _key(item: Range) -> str:
    stat = item.path.stat()
    return f"{item.path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}|{item.start}|{item.end}"


def _settled(path: Path) -> bool:
    # A file changed twice within one tick of the clock keeps its times: only files at rest are remembered.
    return time.time() - path.stat().st_mtime > 2 and time.time() - path.stat().st_ctime > 2


def _hash(item: Range) -> str:
    state = hashlib.blake2b(digest_size=20)
    with item.path.open("rb") as file:
        file.seek(item.start)
        left = item.size
        while left > 0 and (block := file.read(min(_BLOCK, left))):
            state.update(block)
            left -= len(block)
    return state.hexdigest()


def _load(path: Path | None) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path is not None else {}
    except (OSError, ValueError):
        return {}


def _save(path: Path, known: dict[str, str]) -> None:
    with suppress(RunError):  # it only saves time
        write_text(path, json.dumps(known))
