"""Shards of text to token files: content-addressed, parallel, resumable, the same bytes whoever does it.

A shard's folder is named by a hash of (format, the shard's content, the tokenizer, the held-out share). Finished shards are never
done twice; unfinished ones leave nothing under their name. Several processes may prepare the same folder: a lock per shard divides
the work, and where locks do not work the first rename wins with equal bytes.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic import one_line_of
from ..core.errors import RunError
from ..core.framing import opened
from ..core.limits import cores
from ..core.locks import Taken
from ..core.patience import until
from ..core.seams import Document, Shard, Tokenizer
from .source._fingerprint import digest
from .store.locks import lock
from .store.token_store import read_meta
from .store.writer import FORMAT, ShardWriter, token_dtype

BATCH_BYTES = 2 << 20
_AHEAD = 3  # batches of one shard in flight: one encoding, one turning into arrays, one waiting

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class Prepared:
    """One source's shards in order, and what they hold: documents, tokens, bytes of each split, documents rejected (empty)."""

    folders: list[Path]
    metas: list[dict[str, Any]] = field(repr=False)

    def counts(self, split: str) -> dict[str, int]:
        return {name: sum(meta["splits"][split][name] for meta in self.metas) for name in ("documents", "tokens", "bytes")}

    def part(self, start: int, stop: int) -> Prepared:
        """Shards start to stop - 1."""
        return Prepared(self.folders[start:stop], self.metas[start:stop])

    @property
    def rejected(self) -> int:
        return sum(meta["rejected"] for meta in self.metas)


def held_out(identity: str, holdout: float) -> bool:
    """Whether a document belongs to validation: by its id alone, so that no other document's coming or going moves it."""
    return (
        holdout > 0
        and int.from_bytes(hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8, key=b"split").digest(), "big")
        < holdout * 2**64
    )


def shard_folder(folder: Path, shard: Shard, tokenizer: Tokenizer, holdout: float) -> Path:
    """Where a shard's tokens are or will be."""
    return folder / digest(FORMAT, shard.identity, tokenizer.identity, holdout)


def prepare(
    shards: Sequence[Shard],
    tokenizer: Tokenizer,
    *,
    folder: Path,
    holdout: float | Sequence[float] = 0.0,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
    may_write: bool = True,
) -> Prepared:
    """Tokenize what is not there yet and describe all of it.

    folder: the cache. holdout: share of documents for validation, of all shards or of each. workers: shards at once (half the cores, at
    least 2). progress: called from the working threads, one at a time, with (bytes done, bytes in all). may_write: False waits until
    another process has done the work. Raises UserError for bad input, RunError when the disk is full.
    """
    shares = [float(holdout)] * len(shards) if isinstance(holdout, int | float) else list(holdout)
    finals = [shard_folder(folder, shard, tokenizer, share) for shard, share in zip(shards, shares)]
    meter = _Meter([getattr(shard, "size", 0) for shard in shards], progress)
    todo = {}
    for index, final in enumerate(finals):
        if read_meta(final) is None:
            todo.setdefault(final, index)
        else:
            meter.finish(index)
    jobs = [(shards[index], final, index, shares[index]) for final, index in todo.items()]

    def done() -> bool:
        """One round. What is left is worked on by another process; should it die, its locks are free on the next."""
        if jobs and may_write:
            with one_line_of(folder):
                folder.mkdir(parents=True, exist_ok=True)
            _run(jobs, tokenizer, workers or max(2, cores() // 2), meter)
        for job in [job for job in jobs if read_meta(job[1]) is not None]:
            meter.finish(job[2])
            jobs.remove(job)
        return not jobs

    until(done)
    for index in range(len(shards)):
        meter.finish(index)
    metas = [read_meta(final) for final in finals]
    return Prepared(finals, [meta for meta in metas if meta is not None])


class _Meter:
    """Bytes done of each shard, never more than its size, and their sum."""

    def __init__(self, sizes: list[int], report: ProgressCallback | None):
        self.sizes, self.done, self.report, self.lock = sizes, [0] * len(sizes), report, threading.Lock()
        self.sum, self.total = 0, sum(sizes)

    def add(self, index: int, count: int) -> None:
        with self.lock:
            count = min(count, self.sizes[index] - self.done[index])
            self.done[index] += count
            self.sum += count
            if count and self.report is not None:
                self.report(self.sum, self.total)

    def finish(self, index: int) -> None:
        self.add(index, self.sizes[index])


def _run(jobs: Sequence[tuple[Shard, Path, int, float]], tokenizer: Tokenizer, workers: int, meter: _Meter) -> None:
    """All jobs, some at once. The first failure stops the others at their next batch and is raised."""
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=workers + 1) as encoders, ThreadPoolExecutor(max_workers=workers) as shards:
        futures = [shards.submit(_shard, *job, tokenizer, encoders, meter, stop) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _shard(
    shard: Shard,
    final: Path,
    index: int,
    holdout: float,
    tokenizer: Tokenizer,
    encoders: ThreadPoolExecutor,
    meter: _Meter,
    stop: threading.Event,
) -> None:
    """One shard from start to end, unless another process has it or the work is stopped."""
    try:
        with lock(final) as mine:
            if not mine or stop.is_set() or read_meta(final) is not None:
                return
            # Where there are no locks, what lies aside may be another process's, which is at work on it.
            for stale in (final, *(final.parent.glob(f"{final.name}.aside-*") if mine is Taken.HELD else ())):
                shutil.rmtree(stale, ignore_errors=True)
            with ShardWriter(final, token_dtype(tokenizer.vocabulary), tokenizer.end, opened(tokenizer)) as writer:
                encoded = _ordered(
                    encoders,
                    lambda batch: (batch, tokenizer.encode([document.text for document, _ in batch])),
                    _batches(_documents(shard), writer),
                )
                for batch, arrays in encoded:
                    if stop.is_set():
                        return
                    _add(writer, batch, arrays, holdout)
                    meter.add(index, sum(size for _, size in batch))
                writer.commit(shard=shard.identity, tokenizer=tokenizer.identity, holdout=holdout, name=shard.name)
            meter.finish(index)
    except OSError as error:
        raise RunError(f"{final} cannot be written: {error.strerror or error}") from None


def _documents(shard: Shard) -> Iterator[Document]:
    """A shard's documents. Raises RunError where the source, and not the store, fails."""
    try:
        yield from shard.read()
    except OSError as error:
        raise RunError(f"{shard.name} cannot be read: {error.strerror or error}") from None


Kept = list[tuple[Document, int]]


def _batches(documents: Iterable[Document], writer: ShardWriter) -> Iterator[Kept]:
    """Documents with their UTF-8 sizes, about BATCH_BYTES at a time; empty ones are counted as rejected."""
    batch: Kept = []
    size = 0
    for document in documents:
        if not document.text:
            writer.rejected += 1
            continue
        count = len(document.text) if document.text.isascii() else len(document.text.encode())
        batch.append((document, count))
        size += count
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _add(writer: ShardWriter, batch: Kept, arrays: list[np.ndarray], holdout: float) -> None:
    if not holdout:
        writer.add("train", arrays, [size for _, size in batch])
        return
    splits: dict[str, tuple[list[np.ndarray], list[int]]] = {"train": ([], []), "validation": ([], [])}
    for (document, size), array in zip(batch, arrays):
        ids, sizes = splits["validation" if held_out(document.id, holdout) else "train"]
        ids.append(array)
        sizes.append(size)
    for split, (ids, sizes) in splits.items():
        writer.add(split, ids, sizes)


def _ordered(pool: ThreadPoolExecutor, work: Callable[[Kept], Any], items: Iterator[Kept]) -> Iterator[Any]:
    """Results in order with a few items in flight, so that reading, encoding and writing overlap."""
    flying: deque[Future[Any]] = deque()
    for item in items:
        flying.append(pool.submit(work, item))
        if len(flying) >= _AHEAD:
            yield flying.popleft().result()
    while flying:
        yield flying.popleft().result()
