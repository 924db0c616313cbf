"""SGD is torch's, its L2 weight decay included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ingot.core.errors import UserError
from ingot.core.resolve import spec

KNOBS = [{"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "weight_decay": 0.1}]


@pytest.mark.parametrize("knobs", KNOBS)
def test_equals_torch(knobs: dict) -> None:
    torch.manual_seed(0)
    start = torch.randn(9, 4)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer = spec("optim", "sgd", lr=0.05, **knobs).build(params=[ours])
    reference = torch.optim.SGD([theirs], lr=0.05, foreach=True, **knobs)
    for _ in range(8):
        ours.grad = torch.randn(9, 4)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
    assert torch.equal(ours, theirs)
    assert len(optimizer.state) == (1 if knobs["momentum"] else 0)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(UserError, match="momentum"):
        spec("optim", "sgd", lr=0.1, momentum=0.0, nesterov=True).build(params=[nn.Parameter(torch.zeros(2))])


def test_gradients_are_left_as_they_are() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = spec("optim", "sgd", lr=0.1, weight_decay=0.5, nesterov=True).build(params=[weight])
    weight.grad = torch.tensor([1.0, 2.0, 3.0])
    optimizer.step()
    assert weight.grad.tolist() == [1.0, 2.0, 3.0]
