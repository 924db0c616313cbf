"""A learned map: at 0 steps it is widening and stacking, afterwards the large model is better than that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _growth import MAKES, PLAIN

from ingot.core.errors import RunError, UserError
from ingot.core.resolve import spec


@pytest.mark.parametrize(
    "make", ["tied rms", "grouped heads, biases, untied", "masked", "width transfer", "width transfer before a layer", "narrow table"]
)
def test_without_learning_it_is_widening(growth: Any, make: str) -> None:
    grown = growth(MAKES[make])
    before = grown.logits()
    grown.grow(spec("transform", "ligo", width=2, depth=1, steps=0))
    assert float((grown.logits() - before).abs().max()) < 1e-10


def test_without_learning_it_is_stacking(growth: Any) -> None:
    found = []
    for transform in (spec("transform", "ligo", depth=2, steps=0), spec("transform", "stack", factor=2)):
        grown = growth(PLAIN)
        grown.grow(transform)
        found.append(grown.logits())
    torch.testing.assert_close(*found)


def test_a_learned_map_starts_lower(growth: Any) -> None:
    losses = {}
    for steps in (0, 30):
        grown = growth(PLAIN)
        grown.train(40)
        (line,) = grown.grow(spec("transform", "ligo", width=2, depth=2, steps=steps, lr=0.01))
        losses[steps] = grown.loss().item()
        assert "starts afresh" in line["notes"][0] and not grown.moments("exp_avg")
    assert losses[30] < losses[0] - 0.1


def test_it_needs_data(growth: Any) -> None:
    grown = growth(PLAIN)
    target = grown.target(spec("transform", "ligo"))
    target.batches = None
    with pytest.raises((UserError, RunError), match="learns its map from data"):
        spec("transform", "ligo").build()(grown.snapshot(), target)
