"""Clipping by the norm of all gradients: torch's function is the reference, and no gradient grows."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ingot.core.resolve import spec
from ingot.hook.clip import total_norm


def model_with_gradients(scale: float) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    for weight in model.parameters():
        weight.grad = scale * torch.randn_like(weight)
    return model


@pytest.mark.parametrize("norm", [2.0, 1.0, 4.0])
def test_equals_torch(norm: float) -> None:
    model, reference = model_with_gradients(10), model_with_gradients(10)
    log = spec("hook", "clip", max_norm=0.5, norm=norm).build().grads(SimpleNamespace(model=model))
    expected = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5, norm)
    assert log == {"grad_norm": expected.item()}
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), reference.parameters()))
    assert total_norm([weight.grad for weight in model.parameters()], norm).item() == pytest.approx(0.5, rel=1e-5)


def test_small_gradients_stay_as_they_are() -> None:
    model = model_with_gradients(1e-3)
    before = [weight.grad.clone() for weight in model.parameters()]
    spec("hook", "clip").build().grads(SimpleNamespace(model=model))
    assert all(torch.equal(weight.grad, old) for weight, old in zip(model.parameters(), before))


def test_weights_without_gradient_are_passed_over() -> None:
    model = model_with_gradients(1.0)
    model[0].weight.grad = None
    assert spec("hook", "clip").build().grads(SimpleNamespace(model=model))["grad_norm"] > 0
    assert model[0].weight.grad is None
    for weight in model.parameters():
        weight.grad = None
    assert spec("hook", "clip").build().grads(SimpleNamespace(model=model)) == {"grad_norm": 0.0}


def test_a_gradient_that_is_not_finite_shows_in_the_log() -> None:
    model = model_with_gradients(1.0)
    model[0].weight.grad[0, 0] = math.nan
    assert math.isnan(spec("hook", "clip").build().grads(SimpleNamespace(model=model))["grad_norm"])
