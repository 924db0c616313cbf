from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.core.errors import RunError
from ingot.data.mix import BLOCK, FINE, Mixture, Pattern

WEIGHTS = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=9)


@settings(deadline=None, max_examples=30)
@given(weights=WEIGHTS, start=st.integers(0, 10**9))
def test_every_window_of_1000_rows_is_within_one_of_its_share(weights: list[float], start: int) -> None:
    share = np.array(weights) / sum(weights)
    source, _ = Pattern(weights).locate(np.arange(start, start + 5 * BLOCK))
    for k, w in enumerate(share):
        sums = np.concatenate([[0], np.cumsum(source == k)])
        counts = sums[BLOCK:] - sums[:-BLOCK]
        assert np.abs(counts - 1000 * w).max() < 1 + 1000 / (BLOCK * FINE)


@settings(deadline=None, max_examples=30)
@given(weights=WEIGHTS, start=st.integers(0, 10**7))
def test_ordinals_count_up_without_gaps(weights: list[float], start: int) -> None:
    pattern = Pattern(weights)
    source, ordinal = pattern.locate(np.arange(start, start + 2500))
    before, after = pattern.counts(start), pattern.counts(start + 2500)
    assert before.sum() == start and after.sum() == start + 2500
    for k in range(len(weights)):
        assert np.array_equal(ordinal[source == k], np.arange(before[k], after[k]))


def test_tiny_weights_are_not_starved() -> None:
    weights = [1.0, 1e-4, 3e-5, 1e-9]
    counts = Pattern(weights).counts(BLOCK * FINE)
    assert counts[3] == 1 and abs(counts[1] - 1e-4 * BLOCK * FINE) <= 1 and abs(counts[2] - 3e-5 * BLOCK * FINE) <= 1


def test_zero_weights_give_nothing_and_bad_ones_are_refused() -> None:
    assert Pattern([0, 2, 0]).counts(12345).tolist() == [0, 12345, 0]
    for weights in ([0, 0], [-1, 2], [float("nan"), 1]):
        with pytest.raises(ValueError, match="weights"):
            Pattern(weights)


def test_phases_change_the_shares_at_their_rows_and_keep_ordinals() -> None:
    mixture = Mixture([0, 1500, 4000], [[1, 0], [0.5, 0.5], [0.1, 0.9]])
    source, ordinal = mixture.locate(np.arange(6000))
    assert np.bincount(source[:1500], minlength=2).tolist() == [1500, 0]
    assert np.bincount(source[1500:4000], minlength=2).tolist() == [1250, 1250]
    assert np.bincount(source[4000:6000], minlength=2).tolist() == [200, 1800]
    for k in range(2):
        assert np.array_equal(ordinal[source == k], np.arange((source == k).sum()))
    alone = mixture.locate(np.arange(3990, 4010))
    assert np.array_equal(alone[0], source[3990:4010]) and np.array_equal(alone[1], ordinal[3990:4010])
    assert mixture.counts(5000).tolist() == np.bincount(source[:5000]).tolist()


@settings(deadline=None, max_examples=30)
@given(caps=st.lists(st.one_of(st.none(), st.integers(1, 5000)), min_size=3, max_size=3), change=st.integers(1, 4000))
def test_capped_sources_give_exactly_their_cap(caps: list[int | None], change: int) -> None:
    mixture = Mixture([0, change], [[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], caps)
    last = mixture.end if mixture.end is not None else 60_000
    source, ordinal = mixture.locate(np.arange(last))
    for k, cap in enumerate(caps):
        given_rows = int((source == k).sum())
        assert np.array_equal(ordinal[source == k], np.arange(given_rows))
        assert cap is None or given_rows <= cap
        if mixture.end is not None or (cap is not None and given_rows == cap):
            assert given_rows == cap
    assert (mixture.end is None) == any(cap is None for cap in caps)


def test_past_the_end_is_one_clear_line() -> None:
    mixture = Mixture([0], [[1.0, 1.0]], [10, 20])
    assert mixture.end == 30
    with pytest.raises(RunError, match="the data ends at row 30"):
        mixture.locate(np.arange(25, 31))
