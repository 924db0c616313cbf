"""What the methods of a gradient's subspace do while there is no gradient to find one in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.core.axes import Axes
from ingot.core.resolve import spec

METHODS: dict[str, dict[str, Any]] = {
    "galore": {"refresh": 2},
    "galore in 8 bits, randomized": {"refresh": 2, "subspace": "randomized", "state_bits": 8, "smallest": 0},
    "fira": {"refresh": 2},
    "online_subspace_descent": {},
}


def build(name: str, start: Tensor, **knobs: Any) -> tuple[nn.Parameter, Any]:
    weight, axes = nn.Parameter(start.clone()), Axes(("experts", "hidden", "width")[-start.dim() :], "matrix")
    chosen = {"lr": 0.05, "rank": 3} | METHODS[name] | knobs
    optimizer = spec("optim", name.partition(" ")[0], **chosen).build(params=[{"params": [weight], "names": ["w"], "axes": [axes]}])
    return weight, optimizer


def step(weight: nn.Parameter, optimizer: Any, gradient: Tensor) -> None:
    weight.grad = gradient.clone()
    optimizer.step()


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (3, 8, 6)])
@pytest.mark.parametrize("name", METHODS)
def test_the_subspace_is_that_of_the_first_gradient_that_is_not_zero(name: str, shape: tuple[int, ...]) -> None:
    """Behind a zero-initialized head the first gradient is zero: after it everything is as if it had not been, but for weight decay."""
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(5, *shape)
    late, optimizer = build(name, start, weight_decay=0.1)
    for _ in range(3):
        step(late, optimizer, torch.zeros(shape))
        assert optimizer.phase == "first" and not optimizer.state[late]["projection"].any()
    torch.testing.assert_close(late.detach(), start * (1 - 0.05 * 0.1) ** 3)
    straight, other = build(name, late.detach(), weight_decay=0.1)
    for gradient in gradients:
        step(late, optimizer, gradient)
        step(straight, other, gradient)
        assert torch.equal(late, straight)
    assert optimizer.state[late]["projection"].any(-1).all()


@pytest.mark.parametrize("name", [name for name in METHODS if "refresh" in METHODS[name]])
def test_a_gradient_of_zero_leaves_the_subspace_at_a_refresh(name: str) -> None:
    torch.manual_seed(0)
    weight, optimizer = build(name, torch.randn(20, 12))
    for _ in range(2):
        step(weight, optimizer, torch.randn(20, 12))
    before = optimizer.state[weight]["projection"].clone()
    assert optimizer.phase == "refresh 1"
    step(weight, optimizer, torch.zeros(20, 12))
    assert torch.equal(optimizer.state[weight]["projection"], before) and float(optimizer.state[weight]["step"]) == 3
