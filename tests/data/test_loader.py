from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.data.loader import LOOKED, Loader, share
from ingot.data.mix import Mixture
from ingot.data.stream import Stream


class Numbers:
    """Rows that say which row of which source they are."""

    def __init__(self, count: int, offset: int):
        self.count, self.offset = count, offset

    def __len__(self) -> int:
        return self.count

    def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        tokens = (ids + self.offset)[:, None] * np.ones((1, 4), np.int64)
        return {"tokens": tokens, "segments": np.ones((len(ids), 4), np.int32)}


def stream(caps: list[int | None] | None = None) -> Stream:
    return Stream({"a": Numbers(70, 0), "b": Numbers(30, 1000)}, seed=3, mixture=Mixture([0, 55], [[0.7, 0.3], [0.4, 0.6]], caps))


def rows_of(windows: list[list[dict[str, torch.Tensor]]]) -> list[tuple[int, int, int]]:
    return [
        (int(row), int(source), int(token))
        for window in windows
        for micro in window
        for row, source, token in zip(micro["rows"], micro["source"], micro["tokens"][:, 0])
        if row >= 0
    ]


@settings(deadline=None, max_examples=40)
@given(
    start=st.integers(0, 200),
    step=st.integers(1, 17),
    micro=st.integers(1, 9),
    ranks=st.integers(1, 5),
    prefetch=st.integers(0, 3),
    beside=st.booleans(),
)
def test_order_does_not_depend_on_layout(start: int, step: int, micro: int, ranks: int, prefetch: int, beside: bool) -> None:
    windows: list[list[list[dict[str, torch.Tensor]]]] = []
    for rank in range(ranks):
        loader = Loader(
            stream(), start=start, rows_per_step=step, micro_rows=micro, rank=rank, ranks=ranks, prefetch=prefetch, beside=beside
        )
        windows.append([next(loader) for _ in range(4)])
        loader.close()
    whole = stream().batch(start, 4 * step)
    wanted = list(zip(whole["rows"].tolist(), whole["source"].tolist(), whole["tokens"][:, 0].tolist()))
    seen = [item for at in range(4) for rank in range(ranks) for item in rows_of([windows[rank][at]])]
    assert seen == wanted
    for at in range(4):
        assert len({len(windows[rank][at]) for rank in range(ranks)}) == 1
        for rank in range(ranks):
            for batch in windows[rank][at]:
                assert batch["tokens"].shape == (micro, 4)
                assert (batch["segments"][batch["rows"] < 0] == 0).all()


def test_shares_are_contiguous_and_even() -> None:
    assert [list(share(7, rank, 3)) for rank in range(3)] == [[0, 1, 2], [3, 4], [5, 6]]


def test_ends_with_the_data_and_keeps_a_short_last_window() -> None:
    loader = Loader(stream([20, 12]), start=0, rows_per_step=10, micro_rows=4)
    windows = list(loader)
    assert [len(rows_of([window])) for window in windows] == [10, 10, 10, 2]
    loader.close()


def test_a_scheduled_batch_changes_the_windows() -> None:
    loader = Loader(stream(), start=0, rows_per_step=lambda row: 2 if row < 4 else 5, micro_rows=5)
    assert [len(rows_of([next(loader)])) for _ in range(4)] == [2, 2, 5, 5]
    loader.close()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_errors_reach_the_consumer(prefetch: int) -> None:
    class Broken(Numbers):
        def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
            if numbers.max() >= 12:
                raise OSError("the disk is gone")
            return super().rows(ids, numbers)

    loader = Loader(Stream({"a": Broken(50, 0)}, seed=0), start=0, rows_per_step=5, micro_rows=5, prefetch=prefetch)
    next(loader), next(loader)
    with pytest.raises(OSError, match="the disk is gone"):
        next(loader)


def test_close_stops_the_thread_at_once() -> None:
    before = set(threading.enumerate())  # an earlier test's loader may not have been collected yet
    loader = Loader(stream(), start=0, rows_per_step=5, micro_rows=5)
    next(loader)
    begin = time.perf_counter()
    loader.close()
    loader.close()
    assert time.perf_counter() - begin < 1 and not any(
        thread.name == "ingot-loader" and thread.is_alive() for thread in set(threading.enumerate()) - before
    )
    with pytest.raises(StopIteration):
        next(loader)


def test_prefetching_hides_the_data_wait() -> None:
    class Slow(Numbers):
        def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
            time.sleep(0.02)
            return super().rows(ids, numbers)

    loader = Loader(Stream({"a": Slow(50, 0)}, seed=0), start=0, rows_per_step=5, micro_rows=5)
    time.sleep(0.2)
    begin = time.perf_counter()
    next(loader), next(loader)
    assert time.perf_counter() - begin < 0.015
    loader.close()


def busy(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@pytest.mark.parametrize(("work", "thread"), [(time.sleep, True), (busy, False)])
def test_on_the_cores_of_the_steps_a_thread_makes_windows_only_where_that_waits(work: Callable[[float], None], thread: bool) -> None:
    class Working(Numbers):
        def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
            made.append(threading.current_thread().name)
            work(0.01)
            return super().rows(ids, numbers)

    made: list[str] = []
    loader = Loader(Stream({"a": Working(500, 0)}, seed=0), start=0, rows_per_step=5, micro_rows=5, beside=False)
    windows = [next(loader) for _ in range(LOOKED)]
    assert set(made) == {threading.current_thread().name}
    for _ in range(4):
        windows.append(next(loader))
    assert (made[LOOKED] == "ingot-loader") == thread
    whole = Stream({"a": Numbers(500, 0)}, seed=0).batch(0, 5 * len(windows))
    assert [row for row, _, _ in rows_of(windows)] == whole["rows"].tolist()
    loader.close()
    with pytest.raises(StopIteration):
        next(loader)
