"""Hash routing: one fixed expert per token id, whatever stands around it; spread evenly over ids."""

from __future__ import annotations

import pytest
import torch

from ingot.core.resolve import spec
from ingot.nn.context import Context

EXPERTS = 8


def route(ids_BT: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """(B, T) the expert of each position."""
    router = spec("nn.router", "hash", seed=seed).build(width=4, experts=EXPERTS)
    context = Context(torch.arange(ids_BT.shape[1]).expand(ids_BT.shape), ids_BT=ids_BT)
    routes = router(torch.zeros(*ids_BT.shape, 4), context)
    group = torch.searchsorted(routes.ends_E, torch.arange(ids_BT.numel(), dtype=torch.int32), right=True)
    return group[routes.inverse_M].view(ids_BT.shape)


def test_the_same_id_always_goes_to_the_same_expert() -> None:
    ids = torch.randint(0, 500, (3, 40), generator=torch.Generator().manual_seed(0))
    experts = route(ids)
    table = route(torch.arange(500)[None])[0]
    assert torch.equal(experts, table[ids])
    assert not torch.equal(table, route(torch.arange(500)[None], seed=1)[0])


def test_ids_are_spread_evenly() -> None:
    counts = route(torch.arange(40_000)[None]).flatten().bincount(minlength=EXPERTS)
    assert len(counts) == EXPERTS and float((counts - 5000).abs().max()) < 5 * (5000 * 7 / 8) ** 0.5


def test_wants_ids() -> None:
    router = spec("nn.router", "hash").build(width=4, experts=EXPERTS)
    with pytest.raises(ValueError, match="token id"):
        router(torch.zeros(1, 3, 4), Context(torch.arange(3)[None]))


def test_a_model_hands_its_ids_down() -> None:
    """Through the embedding, the masks of late tokens and kept positions included."""
    context = Context(torch.arange(4)[None], ids_BT=torch.tensor([[5, 6, 7, 8]]))
    context.keep(torch.tensor([[3, 1]]))
    assert context.ids_BT is not None and context.ids_BT.tolist() == [[8, 6]]
    embedding = spec("nn.embedding", "token").build(width=4, vocabulary=9, sequence=4)
    fresh = Context()
    embedding({"tokens": torch.tensor([[1, 2]]), "inputs": torch.tensor([[1, 3]])}, fresh)
    assert fresh.ids_BT is not None and fresh.ids_BT.tolist() == [[1, 3]]
