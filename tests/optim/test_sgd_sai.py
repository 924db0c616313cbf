"""SGD-SaI is the authors' package; the ratio is taken once, from the first gradient that says something."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ingot.core.resolve import spec


def ours(**knobs: Any) -> Any:
    return lambda weights: spec("optim", "sgd_sai", **{"lr": 1e-3} | knobs).build(params=weights)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_agrees_with_the_authors_on_recorded_gradients(compare: Any, decay: float) -> None:
    module = pytest.importorskip("sgd_sai")

    def theirs(weights: list[nn.Parameter]) -> Any:
        return module.SGD_sai(weights, lr=1e-3, weight_decay=decay)

    assert compare(ours(weight_decay=decay), theirs, dtype=torch.float64) < 1e-5


def test_agrees_with_the_papers_equations(recorded: Any) -> None:
    start, steps = recorded
    weight, expected = nn.Parameter(start[0].clone()), start[0].double()
    optimizer = ours(momentum=0.8, weight_decay=0.1)([weight])
    momentum = steps[0][0].double()
    ratio = momentum.norm() / (momentum.std() + 1e-8)
    for step, gradients in enumerate(steps[:20]):
        weight.grad = gradients[0].clone()
        optimizer.step()
        momentum = 0.8 * momentum + 0.2 * gradients[0].double() if step else momentum
        expected = expected * (1 - 1e-3 * 0.1) - 1e-3 * ratio * momentum
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)
    assert float(optimizer.state[weight]["snr"]) == pytest.approx(float(ratio), rel=1e-6)
    assert float(ratio) == pytest.approx(weight.numel() ** 0.5, rel=0.1)  # of a gradient without a mean


def test_a_zero_gradient_says_nothing_and_a_single_element_has_ratio_one() -> None:
    weight, single = nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(1))
    optimizer = ours(lr=0.1)([weight, single])
    for gradient in (torch.zeros(4, 3), torch.arange(12.0).reshape(4, 3)):
        weight.grad, single.grad = gradient, torch.full((1,), 3.0)
        optimizer.step()
    assert float(optimizer.state[weight]["snr"]) == pytest.approx(float(gradient.norm() / gradient.std()))
    torch.testing.assert_close(optimizer.state[weight]["momentum"], gradient)
    assert float(optimizer.state[single]["snr"]) == 1 and single.item() == pytest.approx(-0.6)


def test_state_is_one_tensor_and_one_number() -> None:
    optimizer = ours()([nn.Parameter(torch.zeros(64, 24))])
    assert optimizer.state_bytes((64, 24), torch.float32) == 4 * (64 * 24 + 1)
