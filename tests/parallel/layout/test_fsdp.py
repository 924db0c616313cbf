"""Every block and the root are sharded, all sum and none divides; narrow compute keeps wide masters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ingot.core.errors import UserError
from ingot.core.resolve import spec


class Block(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.seen = (self.weight.dtype, x.dtype)
        return nn.functional.linear(x.to(self.weight.dtype), self.weight, self.bias)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.encoder = nn.Linear(4, 4), nn.Module()
        self.encoder.blocks = nn.ModuleList(Block(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(x.to(self.first.weight.dtype), self.first.weight)
        for block in self.encoder.blocks:
            x = block(x)
        return x


def test_needs_a_group() -> None:
    with pytest.raises(UserError, match="torchrun"):
        spec("parallel.layout", "fsdp").build()


def test_every_unit_sums(group: Any) -> None:
    model = spec("parallel.layout", "fsdp").build().shard(Model(), torch.float32)
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    assert len(units) == 4
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    for unit in units:
        for parameters in unit._get_fsdp_state()._fsdp_param_groups:
            assert parameters.gradient_divide_factor == 1.0 and parameters.force_sum_reduction_for_comms


@pytest.mark.parametrize(
    ("masters", "compute", "gathered"),
    [
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32, torch.float32),
        (torch.float64, torch.float64, torch.float64),
    ],
)
def test_dtypes(group: Any, masters: torch.dtype, compute: torch.dtype, gathered: torch.dtype) -> None:
    layout = spec("parallel.layout", "fsdp", reshard=False).build()
    model = layout.shard(Model().to(masters), compute)
    for last in (False, True):
        with layout.syncing(last):
            model(torch.randn(5, 4)).sum().backward()
        assert (model.first.weight.grad is not None) == last
    assert model.encoder.blocks[1].seen[0] == gathered
    assert all(
        parameter.dtype == masters and parameter.grad.dtype == masters for parameter in model.parameters() if parameter.grad is not None
    )
