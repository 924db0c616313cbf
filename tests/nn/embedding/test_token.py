"""The token embedding and what may be added to it."""

from __future__ import annotations

from types import SimpleNamespace

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


def test_a_narrower_table_is_projected() -> None:
    knobs = {"position": "learned", "norm": "layer", "types": 2, "inner": 4}
    layer = spec("nn.embedding", "token", **knobs).build(width=6, vocabulary=9, sequence=5, linear=spec("nn.linear", "dense")).double()
    tokens, positions = torch.tensor([[1, 8, 1]]), torch.tensor([[0, 1, 2]])
    inner = layer.norm(layer.weight[tokens] + layer.position.weight[positions] + layer.segment.weight[0])
    expected = inner @ layer.project.weight.T + layer.project.bias
    torch.testing.assert_close(layer({"tokens": tokens}, Context(positions)), expected, rtol=1e-12, atol=1e-12)
    assert layer.weight.shape == (9, 4) and expected.shape == (1, 3, 6)
    named = {name: axes.names for name, axes in axes_of(layer).items()}
    assert [name for name, axes in named.items() if "width" in axes] == ["project.weight", "project.bias"]


def test_a_tied_head_cannot_read_a_narrower_table() -> None:
    knobs = spec("nn.embedding", "token", inner=4).knobs
    check = load("nn.embedding", "token").check

    def said(objective: str, **more: object) -> list[str]:
        model = SimpleNamespace(objective=spec("objective", objective, **more))
        return list(check(knobs, {"run": SimpleNamespace(model=model, stages=[])}))

    assert "tied head of 'causal_lm'" in said("causal_lm")[0]
    assert not said("causal_lm", tied=False) and not said("masked_lm", transform="layer")
