"""Learned positions."""

from __future__ import annotations

import torch

from ingot.core.axes import axes_of
from ingot.core.parts import load
from ingot.core.resolve import spec


def test_looks_up_the_position_within_the_document() -> None:
    layer = spec("nn.position", "learned").build(width=6, sequence=5)
    assert torch.equal(layer(torch.tensor([[0, 1, 0]]))[0, 2], layer.weight[0])
    assert axes_of(layer)["weight"] == (("positions", "width"), "position")


def test_a_table_shorter_than_the_rows_is_refused() -> None:
    check = load("nn.position", "learned").check
    assert "end at 4" in next(iter(check({"size": 4}, {"sequence": 8})))
    assert not list(check({"size": 8}, {"sequence": 8}))
