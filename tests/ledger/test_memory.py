"""Bytes: exact for tensors, plausible for the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
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
    """In a process of its own: one that has run other tests holds freed memory, from which part of what is asked for comes."""
    script = (
        "import torch; from ingot.ledger import memory; torch.ones(1); before = memory.process_memory(); held = torch.ones(50_000_000); "
        "print(before, memory.process_memory(), memory.process_peak(), memory.available())"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    before, after, peak, available = (int(number) for number in printed.split())
    assert 0.9 * 200_000_000 < after - before < 1.2 * 200_000_000
    assert peak >= after
    assert available > 0


def test_what_is_available_is_what_the_control_groups_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_left", lambda: 12345)
    assert memory.available() == 12345
    monkeypatch.setattr(memory, "memory_left", lambda: float("inf"))
    assert 12345 < memory.available() <= memory.psutil.virtual_memory().total


def test_the_ledger_entry() -> None:
    model = nn.Linear(2, 2)
    assert set(memory.measure(model)) == {"process_peak", "process", "weights", "gradients", "optimizer_state"}
