"""Every pair of an optimizer and a linear trains a small model, or is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ingot.build.groups import parameter_groups
from ingot.core.errors import UserError
from ingot.core.parts import parts_in
from ingot.core.resolve import spec
from ingot.model.graph import Model

SLOTS = ["optim"]
KNOBS: dict[str, dict[str, Any]] = {"low_rank": {"rank": 4}, "sltrain": {"rank": 4, "density": 0.2}, "relora": {"rank": 4}}
WIDTH, VOCABULARY, SEQUENCE, STEPS = 16, 24, 12, 3


def model_of(linear: str) -> Any:
    wiring = {"width": WIDTH, "vocabulary": VOCABULARY, "sequence": SEQUENCE, "specials": {"end": 1}, "linear": spec("nn.linear", "dense")}
    chosen = {"name": linear} | KNOBS.get(linear, {})
    encoder = spec(
        "model.encoder", "transformer", depth=2, mixer={"name": "attention", "heads": 2}, feedforward="relu2", linear=chosen
    ).build(**wiring)
    return Model(
        embedding=spec("nn.embedding", "token").build(**wiring), encoder=encoder, objective=spec("objective", "causal_lm").build(**wiring)
    )


@pytest.mark.parametrize("linear", list(parts_in("nn.linear")))
def test_trains_or_is_refused(case: Any, linear: str, batch_of: Callable[..., dict[str, torch.Tensor]]) -> None:
    model, initializer = model_of(linear), spec("model.init", "normal").build()
    initializer.apply(model, seed=1)
    for weight in model.parameters():
        if weight.dim() > 1 and not weight.any():  # factors that start from zero hold their partners still at first
            torch.nn.init.normal_(weight, std=0.05, generator=torch.Generator().manual_seed(2))
    try:
        optimizer = case.spec(lr=0.003).build(params=parameter_groups(model, initializer), model=model)
    except UserError as error:
        assert str(error)
        return
    batch = model.objective.prepare(batch_of(range(8)))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = sum(value.sum() for value in model(batch).values()) / batch["units"].sum()
            loss.backward()
        return loss.detach()

    losses = [float(optimizer.step(closure)) for _ in range(STEPS)] + [float(closure())]
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert losses[-1] < losses[0] + 0.02, losses
    assert not moved & frozen, "a frozen weight was changed"
    hidden = {name for name in before if ".mixer." in name or ".feedforward." in name} - frozen
    if hasattr(optimizer, "active"):  # trains some blocks at a time
        assert moved
    else:
        assert hidden <= moved, sorted(hidden - moved)
