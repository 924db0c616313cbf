"""The stack: its norm at the end, and what it refuses."""

from __future__ import annotations

import torch

from ingot.core.parts import load
from ingot.core.resolve import spec
from ingot.nn.context import Context


def build(**knobs: object) -> torch.nn.Module:
    return spec("model.encoder", "transformer", depth=3, mixer={"name": "attention", "heads": 2}, **knobs).build(width=16, sequence=8)


def test_a_final_norm_is_there_unless_the_output_is_normalized() -> None:
    assert build().norm is not None and build(block="hybrid").norm is not None
    assert build(block="post").norm is None and build(final_norm=False).norm is None


def test_normalizing_twice_is_refused() -> None:
    knobs = spec("model.encoder", "transformer", depth=1, mixer={"name": "attention", "heads": 2}, block="post", final_norm=True).knobs
    assert "already normalizes" in next(iter(load("model.encoder", "transformer").check(knobs, {})))


def test_output_is_the_blocks_in_order_then_the_norm() -> None:
    encoder, x = build(), torch.randn(2, 8, 16)
    context = Context(torch.arange(8).expand(2, -1))
    expected = x
    for block in encoder.blocks:
        expected = block(expected, context)
    assert torch.equal(encoder(x, context), encoder.norm(expected))
    assert len(encoder.blocks) == encoder.depth == 3
