"""Windows of micro-batches for one rank, prefetched by a thread; their order does not depend on ranks, micro-batches or prefetching.

Where the steps are computed by the same cores, a thread that decodes beside them costs twice what it takes: every product is shared out
evenly, and all its threads wait for the one that was disturbed. There windows are made between the steps, unless making them waits (for
a disk, a network): then a thread waits for it instead.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

Window = list[dict[str, torch.Tensor]]
LOOKED = 4  # windows after which it is decided whether making them waits: for more than a quarter of the time, and for LONG at all
LONG = 1e-3  # seconds a window


def share(rows: int, rank: int, ranks: int) -> range:
    """The contiguous part of a window's rows that a rank holds; the first ranks hold one more where it does not divide."""
    each, more = divmod(rows, ranks)
    start = rank * each + min(rank, more)
    return range(start, start + each + (rank < more))


class Loader:
    """Iterator of windows from row ``start`` on. A window is rows_per_step rows over all ranks; this rank's share comes in
    micro-batches of exactly micro_rows, as many on every rank; rows that fill them up have rows = -1 and segments = 0.

    rows_per_step may be a function of the row at which the window starts (a scheduled batch). Ends where the stream ends.
    prefetch: windows that a thread makes in advance; 0 for no thread. beside: whether it does so from the start, or only if making
    them waits. Errors of the stream are raised in the consumer. close() stops the thread.
    """

    def __init__(
        self,
        stream: Any,
        *,
        start: int,
        rows_per_step: int | Callable[[int], int],
        micro_rows: int,
        rank: int = 0,
        ranks: int = 1,
        prefetch: int = 2,
        beside: bool = True,
    ):
        if micro_rows < 1 or not 0 <= rank < ranks:
            raise ValueError("micro_rows wants at least 1, rank a number below ranks")
        self.stream, self.row, self.micro_rows, self.rank, self.ranks = stream, start, micro_rows, rank, ranks
        self.rows_per_step = rows_per_step if callable(rows_per_step) else lambda row: rows_per_step
        self._windows = self._generate()
        self._stop = threading.Event()
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=max(1, prefetch))
        self._thread: threading.Thread | None = None
        self._looks = bool(prefetch)
        self._made, self._seconds, self._waited = 0, 0.0, 0.0  # of the windows that are being looked at
        if prefetch and beside:
            self._begin()

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        if self._stop.is_set():
            raise StopIteration
        if self._thread is None:
            return self._at_once()
        item = self._queue.get()
        if isinstance(item, BaseException):
            self.close()
            raise item
        return item  # type: ignore[no-any-return]

    def close(self) -> None:
        """Stop prefetching; what was prefetched is dropped."""
        self._stop.set()
        while self._thread is not None and self._thread.is_alive() and self._thread is not threading.current_thread():
            with_room = not self._queue.empty()
            if with_room:
                self._queue.get_nowait()
            self._thread.join(0.01)

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._fill, name="ingot-loader", daemon=True)
        self._thread.start()

    def _at_once(self) -> Window:
        """The next window, made by the consumer. The thread takes over where most of that was waiting."""
        began, busy = time.perf_counter(), time.process_time()
        window = next(self._windows)
        if self._looks:
            seconds = time.perf_counter() - began
            self._made, self._seconds = self._made + 1, self._seconds + seconds
            self._waited += seconds - (time.process_time() - busy)
            if self._made == LOOKED:
                if self._waited > max(self._seconds / 4, LONG * LOOKED):
                    self._begin()
                self._made, self._seconds, self._waited = 0, 0.0, 0.0
        return window

    def _fill(self) -> None:
        try:
            for window in self._windows:
                if not self._offer(window):
                    return
            self._offer(StopIteration())
        except BaseException as error:
            self._offer(error)

    def _offer(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _generate(self) -> Iterator[Window]:
        while self.stream.end is None or self.row < self.stream.end:
            count = self.rows_per_step(self.row)
            there = count if self.stream.end is None else min(count, self.stream.end - self.row)
            yield self._window(self.row, there)
            self.row += there

    def _window(self, start: int, count: int) -> Window:
        mine = share(count, self.rank, self.ranks)
        micros = max(1, -(-len(share(count, 0, self.ranks)) // self.micro_rows))
        # A rank without rows still takes part in every collective: it is given padding in the shape of a row.
        batch = self.stream.batch(start + mine.start, len(mine)) if len(mine) else _padded(self.stream.batch(start, 1), 0, 0)
        if getattr(self.stream, "group", 0):
            batch = self.stream.trimmed(batch, start, count)
        return [self._micro(batch, at * self.micro_rows, len(mine)) for at in range(micros)]

    def _micro(self, batch: dict[str, np.ndarray], at: int, rows: int) -> dict[str, torch.Tensor]:
        stop = min(at + self.micro_rows, rows)
        piece = {key: value[at:stop] for key, value in batch.items()}
        if stop - at < self.micro_rows:
            piece = _padded({key: value[at : max(at, stop)] for key, value in batch.items()}, max(0, stop - at), self.micro_rows)
        return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in piece.items()}


def _padded(batch: dict[str, np.ndarray], rows: int, wanted: int) -> dict[str, np.ndarray]:
    """The first rows of a batch, then zeros up to wanted rows; ``rows`` of the filling is -1."""
    result = {}
    for key, value in batch.items():
        result[key] = np.zeros((wanted, *value.shape[1:]), dtype=value.dtype)
        result[key][:rows] = value[:rows]
    result["rows"][rows:] = -1
    return result
