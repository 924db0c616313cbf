"""Stacking repeats the whole stack, block by block, with its optimizer state; an uncarried state is noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _growth import PLAIN

from ingot.core.errors import UserError
from ingot.core.resolve import spec


def test_block_i_is_block_i_mod_depth(growth: Any) -> None:
    grown = growth(PLAIN)
    grown.train(5)
    old, moments = {name: value.clone() for name, value in grown.model.state_dict().items()}, grown.moments("exp_avg_sq")
    grown.grow(spec("transform", "stack", factor=3))
    new, carried = grown.model.state_dict(), grown.moments("exp_avg_sq")
    assert grown.graph.encoder.knobs["depth"] == 6
    for layer in range(6):
        for rest in ("mixer.query.weight", "feedforward.down.weight", "mixer_norm.weight"):
            name, source = f"encoder.blocks.{layer}.{rest}", f"encoder.blocks.{layer % 2}.{rest}"
            assert torch.equal(new[name], old[source]) and torch.equal(carried[name], moments[source])
    assert torch.equal(new["embedding.weight"], old["embedding.weight"]) and torch.equal(
        carried["embedding.weight"], moments["embedding.weight"]
    )


def test_state_that_is_not_carried_would_be_seen(growth: Any) -> None:
    """The next update with carried state is not that of a fresh optimizer."""
    updates = []
    for keep in (True, False):
        grown = growth(PLAIN)
        grown.train(10)
        grown.grow(spec("transform", "stack"), keep_state=keep)
        before = grown.model.embedding.weight.detach().clone()
        grown.step()
        updates.append(grown.model.embedding.weight.detach() - before)
        assert bool(grown.moments("step")["embedding.weight"] == (11 if keep else 1))
    assert (updates[0] - updates[1]).norm() > 0.1 * updates[1].norm()


def test_one_block_is_refused_to_stay_one(growth: Any) -> None:
    with pytest.raises(ValueError, match="no depth"):
        spec("transform", "stack").build().graph({"encoder": {"name": "x"}})


def test_the_pattern_of_experts_is_kept_or_refused(growth: Any) -> None:
    """Blocks of every second layer have experts: a copy cannot become one without them."""
    experts = {"name": "moe", "experts": 2, "every": 2}
    tree = {**PLAIN, "encoder": {**PLAIN["encoder"], "feedforward": experts}}
    grown = growth(tree)
    grown.grow("stack")
    assert [block.feedforward.dense is None for block in grown.model.encoder.blocks] == [False, True, False, True]
    for name, knobs in (("identity_depth", {}), ("identity_depth", {"place": "end"}), ("interpolate", {}), ("ligo", {})):
        with pytest.raises(UserError, match="one of them has experts and the other has none"):
            growth(tree).grow(spec("transform", name, **knobs))
    first = {**PLAIN, "encoder": {**PLAIN["encoder"], "feedforward": experts | {"every": 1, "first_dense": 1}}}
    with pytest.raises(UserError, match="block 2 would come from block 0"):
        growth(first).grow("stack")
