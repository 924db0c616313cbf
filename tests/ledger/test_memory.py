"""Bytes: exact for tensors, plausible for the process."""

from __future__ import annotations

import torch
from torch import nn

from ingot.ledger import memory


def test_bytes_of_weights_gradients_and_state() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20, dtype=torch.float64))
    optimizer = torch.optim.AdamW(model.parameters())
    assert memory.gradient_bytes(model) == memory.state_bytes(optimizer) == 0
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    weights = 220 * 4 + 40 * 8
    assert memory.weight_bytes(model) == weights + 40 * 8 + 8
    assert memory.gradient_bytes(model) == weights
    assert memory.state_bytes(optimizer) == 2 * weights + 4 * 4


def test_shared_storage_counts_once() -> None:
    tied = nn.Linear(8, 8, bias=False)
    other = nn.Linear(8, 8, bias=False)
    other.weight = tied.weight
    assert memory.weight_bytes(nn.Sequential(tied, other)) == 256
    base = torch.zeros(100)
    assert memory.tensor_bytes([base[:10], base[50:], base, None, 3]) == 400


def test_nested_state_is_found() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    optimizer.state["shared"] = {"factors": [torch.zeros(4), (torch.zeros(2, dtype=torch.float64),)], "count": 3}
    assert memory.state_bytes(optimizer) == 32


def test_the_process_peak_follows_what_is_held() -> None:
    before = memory.process_memory()
    held = torch.ones(50_000_000)
    grown = memory.process_memory() - before
    assert 0.9 * 200_000_000 < grown < 1.2 * 200_000_000
    assert memory.process_peak() >= before + grown
    assert memory.available() > 0
    del held


def test_the_ledger_entry() -> None:
    model = nn.Linear(2, 2)
    assert set(memory.measure(model)) == {"process_peak", "process", "weights", "gradients", "optimizer_state"}
