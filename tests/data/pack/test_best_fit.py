from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.core.resolve import spec
from ingot.data.pack.best_fit import best_fit

_loaded = importlib.util.spec_from_file_location("stream_rows", Path(__file__).with_name("test_stream.py"))
assert _loaded is not None and _loaded.loader is not None
shared = importlib.util.module_from_spec(_loaded)
_loaded.loader.exec_module(shared)


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30), sequence=st.integers(2, 33))
def test_every_token_exactly_once_and_short_documents_whole(sizes: list[int], sequence: int) -> None:
    store, _, batch = shared.rows_of("best_fit", sizes, sequence)
    assert sorted(batch["tokens"][batch["segments"] > 0].tolist()) == sorted(store.tokens.tolist())
    shared.check_layout(batch)
    for document in store.documents:
        if 1 < len(document) <= sequence:
            row = np.flatnonzero((batch["tokens"] == document[0]).any(axis=1))
            assert len(row) == 1 and " ".join(map(str, document)) in " ".join(map(str, batch["tokens"][row[0]]))


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_is_best_fit_by_a_plain_search(sizes: list[int]) -> None:
    capacity, ordered, rooms = 20, sorted(sizes, reverse=True), []
    for size in ordered:
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms[rooms.index(min(fitting))] -= size
        else:
            rooms.append(capacity - size)
    rows = best_fit(ordered, capacity)
    filled = np.bincount(rows, weights=ordered)
    assert sorted(capacity - filled) == sorted(rooms)


def test_the_index_is_kept_and_reused(tmp_path: Path) -> None:
    store = shared.Store([5, 9, 3, 30])
    first = spec("data.pack", "best_fit").build(lengths=store, sequence=8, cache=tmp_path)
    kept = sorted(tmp_path.rglob("*.npy"))
    stamps = [path.stat().st_mtime_ns for path in kept]
    again = spec("data.pack", "best_fit").build(lengths=store, sequence=8, cache=tmp_path)
    assert len(kept) == 3 and [path.stat().st_mtime_ns for path in kept] == stamps
    one, two = first.spans(np.arange(len(first))), again.spans(np.arange(len(again)))
    assert np.array_equal(one.start, two.start) and np.array_equal(one.row, two.row)


def test_cuts_fewer_documents_than_the_stream() -> None:
    sizes = np.random.default_rng(0).integers(2, 30, 400).tolist()
    _, best, _ = shared.rows_of("best_fit", sizes, 64)
    _, stream, _ = shared.rows_of("stream", sizes, 64)
    assert best.pack.report()["cut"] == 0 < stream.pack.report()["cut"]
    assert best.pack.report()["padding"] < 0.02
