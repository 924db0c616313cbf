"""Sums over ranks, in buckets, with zeros for what a rank did not use. Two ranks with equal gradients are played by doubling."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ingot.core.resolve import spec

Calls = list[int]


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A second rank that always holds the same; collects the number of elements of each message."""
    sent: Calls = []

    def double(tensor: Tensor) -> None:
        sent.append(tensor.numel())
        tensor.mul_(2)

    monkeypatch.setattr(dist, "all_reduce", double)
    monkeypatch.setattr(dist, "broadcast", lambda tensor, src: None)
    return sent


def layout_of_two(**knobs: Any) -> Any:
    layout = spec("parallel.layout", "replicate", **knobs).build()
    layout.ranks = 2
    return layout


def test_sums_what_anyone_used(group: Any, twins: Calls) -> None:
    model = nn.ModuleList([nn.Linear(4, 4) for _ in range(6)])
    layout = layout_of_two(bucket="200 B")
    layout.shard(model, torch.float32)
    model[5].double().weight.requires_grad = False
    for index in (0, 1, 2, 3, 5):
        for parameter in model[index].parameters():
            parameter.grad = torch.full_like(parameter, float(index + 1)) if parameter.requires_grad else None
    layout.reduce()
    assert [float(layer.bias.grad[0]) for layer in (*model[:4], model[5])] == [2, 4, 6, 8, 12]
    assert model[4].weight.grad is None and model[5].weight.grad is None
    assert twins == [11, 40, 40, 4]  # who used what; then neighbours of one dtype, at most 50 floats a message


def test_many_small_gradients_take_no_time() -> None:
    """Each is looked at once: what a message holds was added up anew for every one of them, tens of seconds for these."""
    gradients = [torch.zeros(1)] * 40_000
    began = time.perf_counter()
    assert [len(bucket) for bucket in layout_of_two(bucket="80 kB")._buckets(gradients)] == [20_000, 20_000]
    assert time.perf_counter() - began < 2


def test_a_parameter_of_the_other_rank_counts_as_zero_here(group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    layout = layout_of_two()
    layout.model = model
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.add_(1))  # the other rank: used everything, all gradients 1
    model.bias.grad = torch.tensor([3.0, 4.0])
    layout.reduce()
    assert torch.equal(model.bias.grad, torch.tensor([4.0, 5.0])) and torch.equal(model.weight.grad, torch.ones(2, 2))
