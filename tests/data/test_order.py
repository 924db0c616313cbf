from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.data import order as orders
from ingot.data.order import SMALL, Permutation, seed_of


@settings(deadline=None, max_examples=40)
@given(n=st.one_of(st.integers(1, 3000), st.integers(SMALL - 3, SMALL + 5000)), seed=st.integers(0, 2**64 - 1))
def test_every_row_exactly_once(n: int, seed: int) -> None:
    assert np.array_equal(np.sort(Permutation(n, seed)(np.arange(n))), np.arange(n))


@pytest.mark.parametrize("n", [10**6 + 3, 10**9, 10**12])
def test_large_orders_are_distinct_and_unrelated(n: int) -> None:
    indices = np.arange(n // 3, n // 3 + 20_000)
    image = Permutation(n, 7)(indices)
    assert len(np.unique(image)) == len(indices) and image.min() >= 0 and image.max() < n
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.03
    assert abs(image.mean() / n - 0.5) < 0.01
    assert not np.array_equal(image, Permutation(n, 8)(indices))


def test_small_orders_are_uniform() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(6000):
        order = tuple(Permutation(3, seed_of("t", seed))(np.arange(3)).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6 and max(abs(count - 1000) for count in counts.values()) < 150


def test_pure_in_its_arguments() -> None:
    order = Permutation(100_000, 3)
    assert np.array_equal(order(np.arange(50, 90)), order(np.arange(100_000))[50:90])
    assert seed_of(1, "a", 2) != seed_of(1, "a", 3) != seed_of(2, "a", 3)


@pytest.mark.parametrize("n", [SMALL + 1, 20_000, orders.TABLED])
def test_a_kept_order_is_the_one_that_is_walked(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Permutation(n, 11)
    monkeypatch.setattr(orders, "TABLED", 0)
    walked = Permutation(n, 11)
    assert kept.table is not None and walked.table is None
    assert np.array_equal(kept(np.arange(n)), walked(np.arange(n)))
