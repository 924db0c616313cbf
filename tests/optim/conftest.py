"""Gradients recorded from a real, small training run, which an optimizer and its reference are both given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 200


@pytest.fixture(scope="session")
def recorded() -> tuple[list[Tensor], list[list[Tensor]]]:
    """(weights at the start, their gradients in each of 200 steps): two matrices, wide and tall, and two vectors."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(256, 60, generator=generator) / 2
    weights = [torch.randn(shape, generator=generator) * 0.15 for shape in ((40, 256), (40,), (60, 40), (60,))]
    leaves = [weight.clone().requires_grad_() for weight in weights]
    steps = []
    for _ in range(STEPS):
        x = torch.randn(96, 256, generator=generator)
        hidden = torch.tanh(F.linear(x, leaves[0], leaves[1]))
        loss = (F.linear(hidden, leaves[2], leaves[3]) - (x @ teacher).sin()).square().mean()
        gradients = torch.autograd.grad(loss, leaves)
        steps.append([gradient.detach() for gradient in gradients])
        with torch.no_grad():
            for leaf, gradient in zip(leaves, gradients):
                leaf.sub_(0.1 * gradient)
    return weights, steps


@pytest.fixture(scope="session")
def compare(recorded: tuple[list[Tensor], list[list[Tensor]]]) -> Callable[..., float]:
    """compare(ours, theirs, chosen, each, dtype, at): give two optimizers (made from lists of weights) the recorded gradients; the
    largest relative difference between their updates of a weight in any step. chosen: which weights. each(step, ours, theirs): called
    after every step. at: the weights before every step, "start" or "zero" (where fp32 rounds no update)."""

    def run(
        ours: Any,
        theirs: Any,
        chosen: tuple[int, ...] = (0, 1, 2, 3),
        each: Any = None,
        dtype: torch.dtype = torch.float32,
        at: str = "start",
    ) -> float:
        start, steps = recorded
        begun = [start[index].to(dtype) * (at == "start") for index in chosen]
        sides = [[nn.Parameter(weight.clone()) for weight in begun] for _ in range(2)]
        optimizers = [make(weights) for make, weights in zip((ours, theirs), sides)]
        worst = 0.0
        for step, gradients in enumerate(steps):
            for optimizer, weights in zip(optimizers, sides):
                for weight, old, index in zip(weights, begun, chosen):
                    weight.data.copy_(old)
                    weight.grad = gradients[index].to(dtype, copy=True)
                optimizer.step()
            for old, weight, twin in zip(begun, *sides):
                moved, wanted = weight.detach() - old, twin.detach() - old
                worst = max(worst, float((moved - wanted).norm() / wanted.norm()))
            if each is not None:
                each(step, *optimizers)
        return worst

    return run
