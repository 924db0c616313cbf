"""AdamW is torch's, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ingot.core.errors import UserError
from ingot.core.resolve import spec


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_torch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    start = [torch.randn(33, 17, dtype=dtype), torch.randn(5, dtype=dtype)]
    ours, theirs = ([nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    knobs = {"betas": (0.8, 0.97), "eps": 1e-7, "weight_decay": 0.2}
    optimizer = spec("optim", "adamw", lr=3e-3, **knobs).build(params=ours)
    optimizer.init_state()
    reference = torch.optim.AdamW(theirs, lr=3e-3, fused=True, **knobs)
    for step in range(10):
        for group in (*optimizer.param_groups, *reference.param_groups):
            group["lr"] = 3e-3 * (1 - step / 20)
        for weight, twin in zip(ours, theirs):
            weight.grad = torch.randn(weight.shape, dtype=dtype)
            twin.grad = weight.grad.clone()
        optimizer.step()
        reference.step()
    assert all(torch.equal(weight, twin) for weight, twin in zip(ours, theirs))
    assert not torch.equal(ours[0], start[0])


def test_works_where_there_is_no_fused_kernel() -> None:
    weight = nn.Parameter(torch.empty(3, 2, device="meta"))
    optimizer = spec("optim", "adamw", lr=1e-3).build(params=[weight])
    optimizer.init_state()
    assert optimizer.param_groups[0]["fused"] is None and optimizer.state[weight]["exp_avg"].device.type == "meta"


@pytest.mark.parametrize("knobs", [{"lr": 0}, {"lr": 1e-3, "betas": [0.9, 1.0]}, {"lr": 1e-3, "weight_decay": -1}, {"lr": 1, "eps": -1}])
def test_refuses_values_outside_their_range(knobs: dict) -> None:
    with pytest.raises(UserError, match="wants"):
        spec("optim", "adamw", **knobs)
