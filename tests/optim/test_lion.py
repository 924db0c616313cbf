"""Lion against its algorithm written out, and its claim: every weight moves by lr."""

from __future__ import annotations

import torch
from torch import nn

from ingot.core.resolve import spec


def test_follows_algorithm_2() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(7, 5, dtype=torch.float64))
    optimizer = spec("optim", "lion", lr=0.02, betas=[0.8, 0.95], weight_decay=0.3).build(params=[weight])
    w, m = weight.detach().clone(), torch.zeros_like(weight)
    for _ in range(6):
        weight.grad = torch.randn_like(weight)
        update = torch.sign(0.8 * m + 0.2 * weight.grad)
        w = w - 0.02 * (update + 0.3 * w)
        m = 0.95 * m + 0.05 * weight.grad
        optimizer.step()
    torch.testing.assert_close(weight.detach(), w, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(optimizer.state[weight]["momentum"], m, rtol=1e-12, atol=1e-14)


def test_moves_every_weight_by_the_learning_rate() -> None:
    weight = nn.Parameter(torch.zeros(100))
    optimizer = spec("optim", "lion", lr=0.5).build(params=[weight])
    weight.grad = torch.randn(100) * torch.logspace(-6, 6, 100)
    optimizer.step()
    assert torch.equal(weight.detach(), -0.5 * weight.grad.sign())
