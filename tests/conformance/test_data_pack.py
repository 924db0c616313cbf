"""What every pack keeps: each token in one row, rows that fit, the same rows whenever asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SLOTS = ["data.pack"]
SEQUENCE = 16


class Lengths:
    """Tokens of documents in memory, as a token store gives them."""

    def __init__(self, sizes: list[int]):
        self.sizes, self.total, self.identity = sizes, sum(sizes), [str(sizes)]

    def __len__(self) -> int:
        return len(self.sizes)

    def chunks(self) -> Iterator[np.ndarray]:
        for at in range(0, len(self.sizes), 3):
            yield np.array(self.sizes[at : at + 3], dtype=np.int64)


def pack_of(case: Any, sizes: list[int], cache: Path | None = None) -> Any:
    return case.build(lengths=Lengths(sizes), sequence=SEQUENCE, cache=cache)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_every_token_is_in_one_row(case: Any, sizes: list[int]) -> None:
    pack = pack_of(case, sizes)
    spans = pack.spans(np.arange(len(pack)))
    assert (spans.length > 0).all() and set(spans.row.tolist()) == set(range(len(pack)))
    assert np.bincount(spans.row, weights=spans.length).max() <= SEQUENCE
    times = np.zeros(sum(sizes), dtype=int)
    for start, length in zip(spans.start.tolist(), spans.length.tolist()):
        assert start >= 0 and start + length <= len(times)
        times[start : start + length] += 1
    assert (times == 1).all()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_any_rows_can_be_asked_for(case: Any, sizes: list[int], seed: int) -> None:
    pack = pack_of(case, sizes)
    ids = np.random.default_rng(seed).integers(0, len(pack), 7)
    several = pack.spans(ids)
    for place, row in enumerate(ids.tolist()):
        alone, here = pack.spans(np.array([row])), several.row == place
        assert np.array_equal(several.start[here], alone.start) and np.array_equal(several.length[here], alone.length)


def test_a_kept_index_is_the_computed_one(case: Any, tmp_path: Path) -> None:
    sizes = [5, 40, 16, 1, 7, 7, 30, 2]
    fresh = pack_of(case, sizes)
    ids = np.arange(len(fresh))
    for again in (pack_of(case, sizes, tmp_path), pack_of(case, sizes, tmp_path)):
        assert len(again) == len(fresh)
        assert all(np.array_equal(getattr(again.spans(ids), name), getattr(fresh.spans(ids), name)) for name in ("row", "start", "length"))


def test_reports_what_it_wastes(case: Any) -> None:
    pack = pack_of(case, [5, 40, 16, 1, 7, 7, 30, 2])
    report = pack.report()
    assert report["rows"] == len(pack) and 0 <= report["cut"] <= 1
    assert report["padding"] == pytest.approx(1 - 108 / (len(pack) * SEQUENCE))
    assert pack.attend in ("document", "row")
