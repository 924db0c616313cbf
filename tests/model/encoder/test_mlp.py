"""Residual feed-forward layers: as the equation says, and no position knows of another."""

from __future__ import annotations

import torch

from ingot.core.resolve import spec
from ingot.nn.context import Context


def built(**knobs: object) -> torch.nn.Module:
    module: torch.nn.Module = spec("model.encoder", "mlp", depth=2, feedforward={"name": "gelu", "bias": True}, **knobs).build(
        width=8, sequence=5
    )
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def context() -> Context:
    return Context(None, None, False, None, None, None)


def test_layers_are_normed_first_and_added() -> None:
    module, x = built(), torch.randn(2, 5, 8)
    y = x
    for block in module.blocks:
        ff = block.feedforward
        z = torch.nn.functional.layer_norm(y, (8,), block.feedforward_norm.weight, block.feedforward_norm.bias)
        y = y + torch.nn.functional.gelu(z @ ff.up.weight.T + ff.up.bias) @ ff.down.weight.T + ff.down.bias
    torch.testing.assert_close(
        module(x, context()), torch.nn.functional.layer_norm(y, (8,), module.norm.weight, module.norm.bias), rtol=1e-4, atol=1e-5
    )


def test_positions_are_alone() -> None:
    module, x = built(final_norm=False), torch.randn(2, 5, 8)
    other = x.clone()
    other[:, 2] += 1
    same = (module(x, context()) == module(other, context())).all(dim=-1)
    assert same[:, [0, 1, 3, 4]].all() and not same[:, 2].any()
