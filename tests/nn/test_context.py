"""The cache of generation."""

from __future__ import annotations

import pytest
import torch

from ingot.nn.context import Cache, Context


def test_cache_returns_everything_stored_so_far() -> None:
    cache, k, v = Cache(5), torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    first = cache.extend("0", k[:, :, :3], v[:, :, :3])
    assert first[0].shape[2] == 3
    cache.advance(3)
    keys, values = cache.extend("0", k[:, :, 3:], v[:, :, 3:])
    assert torch.equal(keys, k) and torch.equal(values, v)


def test_cache_refuses_more_than_it_holds() -> None:
    with pytest.raises(ValueError, match="holds 2"):
        Cache(2).extend("0", torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))


def test_positions_go_on_from_the_cache() -> None:
    cache = Cache(8)
    cache.advance(3)
    context = Context(cache=cache)
    context.settle(torch.zeros(2, 2, 4))
    assert context.positions_BT.tolist() == [[3, 4], [3, 4]]


def test_tokens_are_placed_where_the_batch_says() -> None:
    context, ids = Context(), torch.zeros(1, 2)
    context.place({"positions": torch.tensor([[0, 0]]), "segments": torch.tensor([[1, 2]])}, ids)
    assert context.positions_BT.tolist() == [[0, 0]] and context.segments_BT.tolist() == [[1, 2]]
    given = Context(torch.tensor([[5, 6]]))
    given.place({"positions": torch.tensor([[0, 0]]), "segments": torch.tensor([[1, 2]])}, ids)
    assert given.positions_BT.tolist() == [[5, 6]] and given.segments_BT is None


def test_keeping_positions_keeps_the_leading_ones() -> None:
    context = Context(torch.arange(5)[None], torch.tensor([[1, 1, 1, 0, 0]]))
    index = context.keep(torch.tensor([[2, 0]]), leading=1)
    assert index.tolist() == [[0, 3, 1]] == context.positions_BT.tolist() and context.segments_BT.tolist() == [[1, 0, 1]]


def test_hidden_positions_hold_the_vector() -> None:
    x, vector = torch.ones(1, 3, 2), torch.tensor([5.0, 6.0])
    assert torch.equal(Context().hide(x), x)
    assert Context(hidden=(torch.tensor([[False, True, False]]), vector)).hide(x).tolist() == [[[1, 1], [5, 6], [1, 1]]]


def test_what_does_not_grow_is_made_once() -> None:
    cache, made = Cache(2), []
    first = cache.keep("0", lambda: made.append(1) or (torch.ones(1), torch.ones(1)))
    assert cache.keep("0", lambda: made.append(1) or (torch.zeros(1), torch.zeros(1))) is first and made == [1]
