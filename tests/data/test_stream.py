from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.data.mix import Mixture
from ingot.data.open import open_data
from ingot.data.stream import Stream


class Numbers:
    """Rows that say which row they are."""

    def __init__(self, count: int, width: int = 1):
        self.count, self.width = count, width

    def __len__(self) -> int:
        return self.count

    def rows(self, ids: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {"tokens": np.repeat(ids[:, None], self.width, axis=1), "number": numbers}


@settings(deadline=None, max_examples=30)
@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_each_epoch_of_each_source_holds_every_row_once(counts: list[int], seed: int) -> None:
    stream = Stream({str(k): Numbers(count) for k, count in enumerate(counts)}, seed)
    source, epoch, ids = stream.locate(np.arange(3 * stream.rows_per_epoch))
    for k, count in enumerate(counts):
        for e in range(int(epoch[source == k].max())):
            assert sorted(ids[(source == k) & (epoch == e)].tolist()) == list(range(count))


def test_epochs_differ_sources_differ_seeds_differ() -> None:
    def order(seed: int, name: str, epoch: int) -> list[int]:
        return Stream({name: Numbers(50)}, seed).batch(50 * epoch, 50)["tokens"][:, 0].tolist()

    orders = [order(0, "a", 0), order(0, "a", 1), order(0, "b", 0), order(1, "a", 0)]
    assert all(sorted(item) == list(range(50)) for item in orders)
    assert len({tuple(item) for item in orders}) == 4


def test_row_numbers_are_global_and_reach_the_source() -> None:
    batch = Stream({"a": Numbers(7), "b": Numbers(5)}, 0).batch(1234, 30)
    assert np.array_equal(batch["rows"], np.arange(1234, 1264)) and np.array_equal(batch["number"], batch["rows"])


def test_position_in_epochs() -> None:
    stream = Stream({"a": Numbers(10), "b": Numbers(30)}, 0, Mixture([0], [[0.5, 0.5]]))
    assert stream.epochs(100) == 2.5


def test_sources_that_do_not_mix_and_empty_ones_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be mixed"):
        Stream({"a": Numbers(10, 4), "b": Numbers(10, 5)}, 0).batch(0, 20)
    with pytest.raises(UserError, match="data source b has no rows"):
        Stream({"a": Numbers(10), "b": Numbers(0)}, 0)


@pytest.mark.parametrize("pack", ["stream", "best_fit", "document"])
def test_seeking_to_the_tenth_epoch_is_instant_and_equals_reading_on(tmp_path: Path, pack: str) -> None:
    draw = np.random.default_rng(0)
    for name in "abc":
        rows = [" ".join(map(str, draw.integers(0, 10**6, draw.integers(1, 60)))) for _ in range(3000)]
        (tmp_path / f"{name}.txt").write_text("\n".join(rows))
    sources = {name: {"name": "text_files", "paths": [f"{name}.txt"], "document": "line"} for name in "abc"}

    def opened() -> Stream:
        train = spec("data.source", "mixture", sources=sources, weights={"a": 5, "b": 3, "c": 2})
        return open_data(
            train=train,
            tokenizer=spec("data.tokenizer", "bytes"),
            sequence=64,
            pack=spec("data.pack", pack),
            cache=tmp_path / "cache",
            folder=tmp_path,
            seed=5,
        ).train

    unbroken = opened()
    start = 10 * unbroken.rows_per_epoch + 777
    read = [unbroken.batch(row, 97) for row in range(start - 970, start + 1067, 97)]
    wanted = {key: np.concatenate([batch[key] for batch in read])[970:1970] for key in read[0]}
    seeks = []
    for _ in range(3):
        fresh = opened()
        begin = time.perf_counter()
        fresh.batch(start, 1)
        seeks.append(time.perf_counter() - begin)
    assert min(seeks) < 0.05
    got = fresh.batch(start, 1000)
    assert set(got) == set(wanted) and all(np.array_equal(got[key], wanted[key]) for key in wanted)
