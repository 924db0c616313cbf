"""The token embedding and what may be added to it."""

from __future__ import annotations

import torch

from ingot.core.axes import axes_of
from ingot.core.parts import load
from ingot.core.resolve import spec
from ingot.nn.context import Context


def test_everything_together() -> None:
    layer = (
        spec("nn.embedding", "token", position="learned", norm="layer", types=2, scale=3.0)
        .build(width=6, vocabulary=9, sequence=4)
        .double()
    )
    tokens, positions, types = torch.tensor([[1, 8, 1]]), torch.tensor([[0, 1, 0]]), torch.tensor([[0, 0, 1]])
    expected = layer.norm(3 * layer.weight[tokens] + layer.position.weight[positions] + layer.segment.weight[types])
    torch.testing.assert_close(layer({"tokens": tokens, "types": types}, Context(positions)), expected, rtol=1e-12, atol=1e-12)
    roles = {name: axes.role for name, axes in axes_of(layer).items()}
    assert roles == {
        "weight": "embedding",
        "position.weight": "position",
        "segment.weight": "position",
        "norm.weight": "scale",
        "norm.bias": "bias",
    }


def test_inputs_go_before_tokens() -> None:
    layer = spec("nn.embedding", "token").build(width=6, vocabulary=9, sequence=4)
    batch = {"tokens": torch.tensor([[1]]), "inputs": torch.tensor([[2]])}
    assert torch.equal(layer(batch, Context(torch.zeros(1, 1)))[0, 0], layer.weight[2])


def test_a_rotary_position_cannot_be_added() -> None:
    knobs = spec("nn.embedding", "token", position="rotary").knobs
    assert "turns queries and keys" in next(iter(load("nn.embedding", "token").check(knobs, {})))
    assert not list(load("nn.embedding", "token").check(spec("nn.embedding", "token", position="learned").knobs, {}))
