"""One process: nothing is communicated, sums are wide."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ingot.core.errors import UserError
from ingot.core.resolve import spec


def test_alone() -> None:
    layout = spec("parallel.layout", "single").build()
    model = nn.Linear(3, 2)
    assert (layout.rank, layout.ranks, layout.shard(model, torch.float32)) == (0, 1, model)
    assert layout.total(torch.tensor([1, 2], dtype=torch.int32)).dtype == torch.int64
    assert layout.total(torch.tensor(0.1)).dtype == torch.float64
    assert layout.gather("x") == ["x"] and layout.broadcast_object("x") == "x"
    with layout.syncing(False):
        model(torch.ones(3)).sum().backward()
    layout.reduce()
    assert torch.equal(model.bias.grad, torch.ones(2))
    assert float(layout.clip_norm(model.parameters())) == pytest.approx(8**0.5, rel=1e-7)
    assert float(layout.clip_norm([])) == 0


def test_norm_neither_overflows_nor_loses_digits() -> None:
    layout = spec("parallel.layout", "single").build()
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    for parameter, value in zip(parameters, (1.5e19, 1.0, 1.5e19), strict=True):
        parameter.grad = torch.tensor([0.0, value])
    assert float(layout.clip_norm(parameters)) == pytest.approx(2**0.5 * 1.5e19, rel=1e-6)


def test_several_processes_are_refused(group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 4)
    with pytest.raises(UserError, match="4 were started"):
        spec("parallel.layout", "single").build()
