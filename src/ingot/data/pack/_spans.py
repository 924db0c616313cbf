"""What packs return: rows as spans of the token sequence, and an index of spans kept on disk for packs that must compute one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..source._fingerprint import digest
from ..store.arrays import keep_arrays
from ..store.locks import lock


@dataclass(frozen=True)
class Spans:
    """Span n fills row ``row[n]`` (index into the request) after its earlier spans with tokens [start[n], start[n] + length[n])."""

    row: np.ndarray
    start: np.ndarray
    length: np.ndarray


class Index:
    """Rows of several spans: row r holds spans first[r] to first[r + 1] of ``start`` (int64) and ``length`` (int32)."""

    def __init__(self, first: np.ndarray, start: np.ndarray, length: np.ndarray):
        self.first, self.start, self.length = first, start, length

    def __len__(self) -> int:
        return len(self.first) - 1

    def spans(self, ids: np.ndarray) -> Spans:
        """Spans of the rows asked for, in order."""
        begin, count = self.first[ids], self.first[ids + 1] - self.first[ids]
        row = np.repeat(np.arange(len(ids)), count)
        at = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(begin, count)
        return Spans(row, self.start[at], self.length[at].astype(np.int64))


_FILES = ("first", "start", "length")


def kept(cache: Path | None, key: tuple[object, ...], make: Callable[[], Index]) -> Index:
    """The index from ``cache``, made there first where it is missing, by one process while others wait; in memory where cache is None."""
    if cache is None:
        return make()
    final = cache / digest("pack", 1, *key)
    while not (final / f"{_FILES[-1]}.npy").is_file():
        with lock(final) as mine:
            if mine and not (final / f"{_FILES[-1]}.npy").is_file():
                shutil.rmtree(final, ignore_errors=True)
                index = make()
                keep_arrays(final, {name: getattr(index, name) for name in _FILES})
        if not mine:
            time.sleep(0.2)
    return Index(*(np.asarray(np.load(final / f"{name}.npy", mmap_mode="r", allow_pickle=False)) for name in _FILES))


def pieces_of(lengths: Any, sequence: int, *, first_only: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Start (int64) and length (int32) of documents cut into pieces of at most ``sequence`` tokens, in order of the corpus."""
    starts, sizes, at = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], 0
    for chunk in lengths.chunks():
        begin = at + np.cumsum(chunk) - chunk
        count = np.minimum(-(-chunk // sequence), 1) if first_only else -(-chunk // sequence)
        nth = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        starts.append(np.repeat(begin, count) + nth * sequence)
        sizes.append(np.minimum(sequence, np.repeat(chunk, count) - nth * sequence).astype(np.int32))
        at += int(chunk.sum())
    return np.concatenate(starts), np.concatenate(sizes)
