"""Fira is the authors' package; outside the subspace it moves every channel as Adam moves the inside, and no faster than allowed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from ingot.core.axes import Axes
from ingot.core.resolve import spec


def ours(**knobs: Any) -> Any:
    return lambda weights: spec("optim", "fira", **{"lr": 0.01, "rank": 6, "refresh": 30} | knobs).build(params=weights)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_agrees_with_the_authors_on_recorded_gradients(compare: Any, scale: float) -> None:
    fira = pytest.importorskip("fira")

    def theirs(weights: list[nn.Parameter]) -> Any:
        matrices, rest = [w for w in weights if w.dim() == 2], [w for w in weights if w.dim() == 1]
        projected = {"params": matrices, "rank": 6, "update_proj_gap": 30, "alpha": scale, "proj_type": "std"}
        return fira.FiraAdamW([projected, {"params": rest}], lr=0.01, no_deprecation_warning=True)

    assert compare(ours(scale=scale), theirs, at="zero") < 1e-5


@pytest.mark.parametrize("index", [0, 2])
def test_outside_is_the_residual_scaled_per_channel(recorded: Any, index: int) -> None:
    start, steps = recorded
    weight = nn.Parameter(start[index].clone())
    optimizer = ours(scale=1.0, growth=None)([weight])
    for gradients in steps[:3]:
        before = weight.detach().clone()
        weight.grad = gradients[index].clone()
        optimizer.step()
    state, right = optimizer.state[weight], weight.shape[0] >= weight.shape[1]
    basis, gradient = state["projection"], steps[2][index]
    gradient = gradient if right else gradient.T
    image = gradient @ basis
    first, second = (value if right else value.T for value in (state["exp_avg"], state["exp_avg_sq"]))
    inside = first / (second.sqrt() + 1e-6)
    outside = (gradient - image @ basis.T) * (inside.norm(dim=1) / image.norm(dim=1))[:, None]
    step = 0.01 * (1 - 0.999**3) ** 0.5 / (1 - 0.9**3)
    expected = -step * (inside @ basis.T + outside)
    moved = weight.detach() - before
    torch.testing.assert_close(moved if right else moved.T, expected, rtol=1e-3, atol=1e-6)
    assert float((outside @ basis).norm() / outside.norm()) < 1e-4 < float(outside.norm())


def test_growth_of_the_outside_is_limited() -> None:
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(30, 30)).Q, torch.linalg.qr(torch.randn(20, 20)).Q
    for growth in (1.01, 2.0, None):
        weight = nn.Parameter(torch.zeros(30, 20))
        optimizer = ours(growth=growth, refresh=1000)([weight])
        norms = []
        for size in (0.1, 0.1, 5.0, 5.0):  # of what lies outside the first gradient's subspace
            weight.grad = left[:, :6] @ right[:, :6].T + size * left[:, 6:12] @ right[:, 6:12].T
            optimizer.step()
            norms.append(float(optimizer.state[weight]["norm"]))
        ratios = [b / a for a, b in pairwise(norms)] if growth else []
        assert all(ratio <= growth * (1 + 1e-5) for ratio in ratios)
        assert growth is None or ratios[1:] == pytest.approx([growth, growth], rel=1e-5)
        assert (norms[0] > 0) == (growth is not None)


def test_an_experts_limit_is_its_own() -> None:
    torch.manual_seed(0)
    experts = nn.Parameter(torch.zeros(2, 12, 8))
    alone = [nn.Parameter(torch.zeros(12, 8)) for _ in range(2)]
    axes = [Axes(("experts", "hidden", "width"), "matrix")]
    optimizer = spec("optim", "fira", lr=0.1, rank=2).build(params=[{"params": [experts], "names": ["e"], "axes": axes}])
    singles = spec("optim", "fira", lr=0.1, rank=2).build(params=alone)
    for step in range(3):
        experts.grad = torch.randn(2, 12, 8) * torch.tensor([1.0, 10.0**step])[:, None, None]
        for weight, gradient in zip(alone, experts.grad):
            weight.grad = gradient.clone()
        optimizer.step()
        singles.step()
    torch.testing.assert_close(experts.detach(), torch.stack([w.detach() for w in alone]), rtol=1e-5, atol=1e-6)
    assert optimizer.state[experts]["norm"].shape == (2,)


def test_state_is_the_papers_formula() -> None:
    """Chen et al. 2024, table 1: m r + 2 n r + 1 for m <= n; and the step count."""
    optimizer = ours(rank=8)([nn.Parameter(torch.zeros(64, 24))])
    assert (
        optimizer.state_bytes((64, 24), torch.float32)
        == optimizer.state_bytes((24, 64), torch.float32)
        == 4 * (24 * 8 + 2 * 64 * 8 + 1) + 4
    )
