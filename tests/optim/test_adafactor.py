"""Adafactor is torch's, and keeps rows and columns instead of the whole second moment."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ingot.core.resolve import spec

KNOBS = [{}, {"weight_decay": 0.1, "lr": 0.3}, {"clip": 1.5, "beta2_decay": -0.5, "eps": (1e-5, 1e-2)}]


@pytest.mark.parametrize("knobs", KNOBS)
def test_agrees_with_torch_on_recorded_gradients(compare: Any, knobs: dict) -> None:
    given = {"lr": 0.01} | knobs
    renamed = {("d" if name == "clip" else name): value for name, value in given.items()}
    worst = compare(
        lambda weights: spec("optim", "adafactor", **given).build(params=weights),
        lambda weights: torch.optim.Adafactor(weights, foreach=False, **renamed),
        dtype=torch.float64,
    )
    assert worst < 1e-5


def test_more_dimensions_are_factored_in_the_last_two() -> None:
    torch.manual_seed(0)
    start = torch.randn(3, 8, 5)
    weight, twin = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer, reference = spec("optim", "adafactor", lr=0.1).build(params=[weight]), torch.optim.Adafactor([twin], lr=0.1)
    for _ in range(5):
        weight.grad = torch.randn(3, 8, 5)
        twin.grad = weight.grad.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(weight, twin, rtol=1e-5, atol=1e-6)
    assert optimizer.state[weight]["row"].shape == (3, 8) and optimizer.state[weight]["column"].shape == (3, 5)


def test_below_its_floor_the_mean_is_eps() -> None:
    """V = R C^T / max(mean(R), eps1), as torch has it: for small gradients V is too small by mean(R) / eps1."""
    row, column = torch.rand(20) + 0.1, torch.rand(30) + 0.1
    start, gradient = torch.randn(20, 30), 1e-4 * row[:, None].sqrt() * column.sqrt()
    weight, twin = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    spec_of = {"lr": 0.1, "eps": (1e-7, 1e-3)}
    optimizer, reference = (
        spec("optim", "adafactor", clip=1e9, **spec_of).build(params=[weight]),
        torch.optim.Adafactor([twin], d=1e9, **spec_of),
    )
    weight.grad, twin.grad = gradient, gradient.clone()
    optimizer.step()
    reference.step()
    torch.testing.assert_close(weight, twin, rtol=1e-5, atol=1e-6)
    wanted = (gradient / gradient.square().mul(gradient.square().mean() / 1e-7).sqrt()) * 0.1 * start.square().mean().sqrt()
    torch.testing.assert_close(start - weight.detach(), wanted, rtol=1e-4, atol=1e-6)


def test_estimate_is_exact_for_squares_of_rank_one() -> None:
    row, column = torch.rand(20) + 0.1, torch.rand(30) + 0.1
    weight = nn.Parameter(torch.zeros(20, 30))
    optimizer = spec("optim", "adafactor", lr=0.1).build(params=[weight])
    weight.grad = row[:, None].sqrt() * column.sqrt()
    optimizer.step()
    held = optimizer.state[weight]
    estimate = held["row"][:, None] * held["column"] / held["row"].mean()
    torch.testing.assert_close(estimate, row[:, None] * column)
    torch.testing.assert_close(weight.detach(), torch.full((20, 30), -0.1 * 1e-3))  # so every element moves alike


def test_state_is_rows_and_columns() -> None:
    """Shazeer & Stern 2018, section 3: n + m for a matrix of n x m, instead of n m."""
    optimizer = spec("optim", "adafactor", lr=0.1).build(params=[nn.Parameter(torch.zeros(64, 24))])
    assert optimizer.state_bytes((64, 24), torch.float32) == 4 * (64 + 24) + 4
    assert optimizer.state_bytes((64,), torch.float32) == 4 * 64 + 4
    assert optimizer.state_layout(None, (64, 24)) == {"step": "scalar", "row": "per_axis", "column": "per_axis"}
