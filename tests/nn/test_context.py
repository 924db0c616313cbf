"""The cache of generation."""

from __future__ import annotations

import pytest
import torch

from ingot.nn.context import Cache, context_of


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
    assert context_of({}, torch.zeros(2, 2, 4), causal=True, cache=cache).positions_BT.tolist() == [[3, 4], [3, 4]]
    assert context_of({"positions": torch.tensor([[0, 0]])}, torch.zeros(1, 2, 4), causal=True).positions_BT.tolist() == [[0, 0]]
