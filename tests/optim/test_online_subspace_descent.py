"""Online Subspace Descent: the subspace descends the authors' loss, taken here by automatic differentiation and torch's AdamW."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.core.resolve import spec


def ours(**knobs: Any) -> Any:
    return lambda weights: spec("optim", "online_subspace_descent", **{"lr": 0.01, "rank": 6} | knobs).build(params=weights)


class Reference(torch.optim.Optimizer):
    """The method as its paper writes it, for matrices."""

    def __init__(self, weights: list[nn.Parameter], rule: str, penalty: float):
        super().__init__(weights, {"lr": 0.01})
        self.rule, self.penalty = rule, penalty

    def step(self) -> None:  # type: ignore[override]
        for weight in self.param_groups[0]["params"]:
            state, gradient = self.state[weight], weight.grad
            if weight.shape[0] < weight.shape[1]:
                gradient = gradient.T
            if not state:
                basis = torch.linalg.svd(gradient, full_matrices=False).Vh[:6].T.contiguous().requires_grad_()
                rule = torch.optim.AdamW([basis], lr=0.005) if self.rule == "adamw" else torch.optim.SGD([basis], lr=0.005)
                state |= {
                    "t": 0,
                    "basis": basis,
                    "rule": rule,
                    "m": gradient.new_zeros(len(gradient), 6),
                    "v": gradient.new_zeros(len(gradient), 6),
                }
            basis = state["basis"]
            state["t"] += 1
            with torch.no_grad():
                image = gradient @ basis
                state["m"].mul_(0.9).add_(image, alpha=0.1)
                state["v"].mul_(0.999).addcmul_(image, image, value=0.001)
                update = 0.25 * (state["m"] / (state["v"].sqrt() + 1e-6)) @ basis.T
                step = 0.01 * (1 - 0.999 ** state["t"]) ** 0.5 / (1 - 0.9 ** state["t"])
                weight.sub_(step * (update if weight.shape[0] >= weight.shape[1] else update.T))
            if state["t"] > 1:
                basis.grad = torch.autograd.grad(self.loss(gradient, basis), basis)[0]
                state["rule"].step()

    def loss(self, gradient: Tensor, basis: Tensor) -> Tensor:
        unit = gradient / gradient.norm()
        return (unit @ basis @ basis.T - unit).square().sum() + self.penalty * (
            basis.T @ basis - torch.eye(6, dtype=basis.dtype)
        ).square().sum()


@pytest.mark.parametrize(("rule", "penalty"), [("adamw", 0.0), ("adamw", 0.1), ("sgd", 0.1)])
def test_agrees_with_the_papers_equations_on_recorded_gradients(compare: Any, rule: str, penalty: float) -> None:
    apart: list[float] = []

    def each(step: int, mine: Any, reference: Any) -> None:
        for weight, twin in zip(mine.param_groups[0]["params"], reference.param_groups[0]["params"]):
            basis, other = mine.state[weight]["projection"], reference.state[twin]["basis"].detach()
            apart.append(float((basis - other).norm() / other.norm()))

    assert (
        compare(
            ours(projection_rule=rule, orthogonality=penalty),
            lambda weights: Reference(weights, rule, penalty),
            (0, 2),
            each,
            torch.float64,
        )
        < 1e-5
    )
    assert max(apart) < 1e-5


def test_subspace_follows_a_gradient_that_turns() -> None:
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(40, 40)).Q, torch.linalg.qr(torch.randn(30, 30)).Q
    shares = {}
    for lr in (0.0, 0.02):
        weight = nn.Parameter(torch.zeros(40, 30))
        optimizer = spec("optim", "online_subspace_descent", lr=0.01, rank=3, projection_lr=lr, projection_weight_decay=0.0).build(
            params=[weight]
        )
        for step in range(200):
            seen = slice(0, 3) if step == 0 else slice(3, 6)
            weight.grad = left[:, seen] @ right[:, seen].T + 0.01 * torch.randn(40, 30)
            optimizer.step()
        basis = torch.linalg.qr(optimizer.state[weight]["projection"]).Q
        shares[lr] = float((basis.T @ right[:, 3:6]).square().sum() / 3)
    assert shares[0.0] < 0.1 and shares[0.02] > 0.9


def test_the_descents_rate_follows_the_schedule(recorded: Any) -> None:
    start, steps = recorded
    moves = []
    for factor in (1.0, 0.5):
        weight = nn.Parameter(start[0].clone())
        optimizer = ours(projection_rule="sgd")([weight])
        for step in (0, 1):
            optimizer.param_groups[0]["lr"] = 0.01 * (1.0 if step == 0 else factor)
            weight.grad = steps[step][0].clone()
            before = optimizer.state[weight]["projection"].clone() if step else None
            optimizer.step()
        moves.append(optimizer.state[weight]["projection"] - before)
    torch.testing.assert_close(moves[1], moves[0] / 2, rtol=1e-2, atol=1e-6)
    assert float(moves[0].norm()) > 1e-4


def test_state_is_galores_and_the_rules() -> None:
    for rule, more in (("adamw", 2), ("sgd", 0)):
        optimizer = ours(rank=8, projection_rule=rule)([nn.Parameter(torch.zeros(64, 24))])
        assert optimizer.state_bytes((24, 64), torch.float32) == 4 * ((1 + more) * 24 * 8 + 2 * 64 * 8) + 4
