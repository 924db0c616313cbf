"""Schedule-free AdamW is the authors'; the gradient is taken at y, and the model holds x before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.core.resolve import spec

KNOBS = {"lr": 0.02, "betas": (0.9, 0.97), "weight_decay": 0.1}


def ours(weights: list[nn.Parameter], **knobs: Any) -> Any:
    return spec("optim", "schedule_free", **KNOBS | knobs).build(
        params=[{"params": weights, "names": [f"w{i}" for i in range(len(weights))]}]
    )


def giving(weights: list[nn.Parameter], gradients: list[Tensor]) -> Callable[[], None]:
    def closure() -> None:
        for weight, gradient in zip(weights, gradients):
            weight.grad = gradient.clone()

    return closure


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize("knobs", [{}, {"power": 1.0, "lr_power": 1.0}])
def test_agrees_with_schedulefree_on_recorded_gradients(
    recorded: Any, knobs: dict[str, float], dtype: torch.dtype, tolerance: float
) -> None:
    schedulefree = pytest.importorskip("schedulefree")
    start, steps = recorded
    mine, twin = ([nn.Parameter(weight.to(dtype, copy=True)) for weight in start] for _ in range(2))
    optimizer = ours(mine, **knobs)
    reference = schedulefree.AdamWScheduleFree(twin, **KNOBS, **({"r": 1.0, "weight_lr_power": 1.0} if knobs else {}))
    for number, gradients in enumerate(steps):
        factor = min(1.0, (number + 1) / 20)  # warm-up, during which the largest lr changes
        for group, other in zip(optimizer.param_groups, reference.param_groups):
            group["lr"] = other["lr"] = KNOBS["lr"] * factor
        optimizer.step(giving(mine, [gradient.to(dtype) for gradient in gradients]))
        reference.train()
        giving(twin, [gradient.to(dtype) for gradient in gradients])()
        reference.step()
        reference.eval()
        for weight, other in zip(mine, twin):
            assert float((weight - other).detach().norm() / other.detach().norm()) < tolerance
            assert float((optimizer.state[weight]["z"] - reference.state[other]["z"]).norm() / other.detach().norm()) < tolerance


def test_gradient_is_taken_between_x_and_z() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, dtype=torch.float64))
    optimizer, points = ours([weight], betas=[0.8, 0.9]), []

    def closure() -> Tensor:
        points.append(weight.detach().clone())
        optimizer.zero_grad()
        loss = (weight - 3).square().sum()
        loss.backward()
        return loss

    for _ in range(5):
        x = weight.detach().clone()
        z = optimizer.state[weight]["z"].clone() if optimizer.state else x
        optimizer.step(closure)
        torch.testing.assert_close(points[-1], 0.2 * z + 0.8 * x, rtol=1e-12, atol=1e-14)
    assert not torch.equal(points[-1], x)


def test_x_is_the_mean_of_z_under_a_constant_rate() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, dtype=torch.float64))
    optimizer, visited = ours([weight]), []
    for _ in range(20):
        optimizer.step(giving([weight], [torch.randn(6, dtype=torch.float64)]))
        visited.append(optimizer.state[weight]["z"].clone())
    # sums of squared rates are kept in single precision
    torch.testing.assert_close(weight.detach(), torch.stack(visited).mean(dim=0), rtol=1e-6, atol=1e-8)


def test_a_step_that_is_skipped_leaves_x() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(50))
    optimizer = ours([weight])
    for _ in range(3):
        optimizer.step(giving([weight], [torch.randn(50)]))
    before, states = weight.detach().clone(), {key: value.clone() for key, value in optimizer.state[weight].items()}

    def stop() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        optimizer.step(stop)
    torch.testing.assert_close(weight.detach(), before, rtol=1e-6, atol=1e-7)
    assert all(torch.equal(value, states[key]) for key, value in optimizer.state[weight].items())
