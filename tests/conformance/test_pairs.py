"""Every pair of an optimizer and a linear trains a small model, or is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ingot.build.groups import parameter_groups
from ingot.core.errors import UserError
from ingot.core.parts import parts_in, signature
from ingot.core.resolve import spec
from ingot.model.graph import Model

SLOTS = ["optim"]
KNOBS: dict[str, dict[str, Any]] = {"low_rank": {"rank": 4}, "sltrain": {"rank": 4, "density": 0.2}, "relora": {"rank": 4}}
WIDTH, VOCABULARY, SEQUENCE, STEPS = 16, 24, 12, 8
FALL = 0.05  # nats in those steps; some reach ten times as much
# Learning rates that move weights this small as far as 0.003 does under Adam.
LR = {"adafactor": 0.1, "sgd": 0.3} | dict.fromkeys(
    ("badam", "galore", "lisa", "muon", "online_subspace_descent", "sam", "schedule_free", "sgd_sai"), 0.01
)


def model_of(linear: str) -> Any:
    wiring = {"width": WIDTH, "vocabulary": VOCABULARY, "sequence": SEQUENCE, "specials": {"end": 1}, "linear": spec("nn.linear", "dense")}
    chosen = {"name": linear} | KNOBS.get(linear, {})
    encoder = spec(
        "model.encoder", "transformer", depth=2, mixer={"name": "attention", "heads": 2}, feedforward="relu2", linear=chosen
    ).build(**wiring)
    return Model(
        embedding=spec("nn.embedding", "token").build(**wiring), encoder=encoder, objective=spec("objective", "causal_lm").build(**wiring)
    )


def settings(case: Any) -> dict[str, Any]:
    """The case's knobs for this problem. Without decay: pulling weights toward zero alone makes a fresh model's loss fall."""
    known = signature(case.target).knobs
    return {"lr": LR.get(case.name, 0.003)} | ({"weight_decay": 0.0} if "weight_decay" in known else {})


def trained(
    case: Any, linear: str, batch_of: Callable[..., dict[str, torch.Tensor]], spoil: float = 1.0
) -> tuple[Any, Any, list[float], dict]:
    """(model, optimizer, loss before every step and at the end, weights at the start). spoil: factor on every gradient, 1 when all is well."""
    model, initializer = model_of(linear), spec("model.init", "normal").build()
    initializer.apply(model, seed=1)
    for weight in model.parameters():
        if weight.dim() > 1 and not weight.any():  # factors that start from zero hold their partners still at first
            torch.nn.init.normal_(weight, std=0.05, generator=torch.Generator().manual_seed(2))
    optimizer = case.spec(**settings(case)).build(params=parameter_groups(model, initializer), model=model)
    for group in optimizer.param_groups:  # those of optimizers inside it too
        group["weight_decay"] = 0.0
    batch = model.objective.prepare(batch_of(range(8)))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = sum(value.sum() for value in model(batch).values()) / batch["units"].sum()
            loss.backward()
        for weight in model.parameters():
            if weight.grad is not None:
                weight.grad *= spoil
        return loss.detach()

    losses = [float(optimizer.step(closure)) for _ in range(STEPS)] + [float(closure())]
    return model, optimizer, losses, before


def fallen(losses: list[float]) -> bool:
    return losses[-1] < losses[0] - FALL


@pytest.mark.parametrize("linear", list(parts_in("nn.linear")))
def test_trains_or_is_refused(case: Any, linear: str, batch_of: Callable[..., dict[str, torch.Tensor]]) -> None:
    try:
        model, optimizer, losses, before = trained(case, linear, batch_of)
    except UserError as error:
        assert str(error)
        return
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert fallen(losses), losses
    assert not moved & frozen, "a frozen weight was changed"
    hidden = {name for name in before if ".mixer." in name or ".feedforward." in name} - frozen
    if hasattr(optimizer, "active"):  # trains some blocks at a time
        assert moved
    else:
        assert hidden <= moved, sorted(hidden - moved)


@pytest.mark.parametrize("spoil", [-1.0, 0.0], ids=["negated", "zero"])
def test_a_gradient_that_is_not_one_is_caught(case: Any, spoil: float, batch_of: Callable[..., dict[str, torch.Tensor]]) -> None:
    """What the test above is worth: uphill, or with no gradient at all, the loss does not fall as far as it asks."""
    assert not fallen(trained(case, "dense", batch_of, spoil)[2])
