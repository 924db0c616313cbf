"""Dropped layers depend on (seed, row, layer), happen at the rate they should, and leave a row exactly as it came."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ingot.core.resolve import spec
from ingot.nn.context import Context
from ingot.nn.dropout import LayerDrop, name_layers


def context(rows: torch.Tensor, key: int = 7) -> Context:
    return Context(torch.arange(8).expand(len(rows), -1), rows_B=rows, key=torch.tensor(key))


def test_rate_and_independence_of_layers_rows_and_keys() -> None:
    layers, rows = nn.ModuleList([LayerDrop(0.3), LayerDrop(0.3)]), torch.arange(20000)
    name_layers(layers)
    x, y = torch.zeros(len(rows), 1, 1), torch.ones(len(rows), 1, 1)
    kept = [layers[0](x, y, context(rows)), layers[1](x, y, context(rows)), layers[0](x, y, context(rows, key=8))]
    for found in kept:
        assert abs(float(found.mean()) - 0.7) < 0.015  # more than four deviations
    for other in kept[1:]:
        assert abs(float((kept[0] * other).mean()) - 0.49) < 0.02
    assert torch.equal(kept[0][5:9], layers[0](x[5:9], y[5:9], context(rows[5:9])))


def encoder(rate: float) -> nn.Module:
    knobs = {"depth": 3, "mixer": {"name": "attention", "heads": 2}, "block": "post", "layer_drop": rate}
    built: nn.Module = spec("model.encoder", "transformer", **knobs).build(width=16, sequence=8)
    name_layers(built)
    return built


def test_a_stack_of_which_blocks_are_passed_by() -> None:
    stack, rows = encoder(0.5), torch.arange(16)
    x, around = torch.randn(16, 8, 16), context(rows)
    found = stack(x, around)
    passes = [drop(torch.ones(16, 1, 1), torch.zeros(16, 1, 1), around).bool().flatten().tolist() for drop in stack.drops]
    for row in range(16):
        expected, alone = x[row : row + 1], context(rows[row : row + 1])
        for block, passed in zip(stack.blocks, passes, strict=True):
            expected = expected if passed[row] else block(expected, alone)
        torch.testing.assert_close(found[row : row + 1], expected)
    assert len({tuple(row) for row in zip(*passes, strict=True)}) > 2
    found.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in stack.parameters() if weight.grad is not None)


def test_evaluation_runs_every_block_and_training_needs_rows() -> None:
    stack, plain, x = encoder(0.5), encoder(0.0), torch.randn(2, 8, 16)
    plain.load_state_dict(stack.state_dict())
    bare = Context(torch.arange(8).expand(2, -1))
    with pytest.raises(ValueError, match="'rows' and 'key'"):
        stack(x, bare)
    assert torch.equal(stack.eval()(x, bare), plain.eval()(x, bare))
