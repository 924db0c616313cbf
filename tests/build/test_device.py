"""The precision that a run computes in, on processors with and without instructions for bf16."""

from __future__ import annotations

import pytest
import torch

from ingot.build import device
from ingot.core.errors import UserError
from ingot.ops import bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(("there", "chosen"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bf16_only_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch, there: bool, chosen: torch.dtype) -> None:
    monkeypatch.setattr(bf16, "cpu_has_bf16", lambda: there)
    assert device.choose_precision("auto", CPU) == chosen
    assert not device.slow_precision(chosen, CPU)


def test_bf16_asked_for_where_it_is_slow_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "cpu_has_bf16", lambda: False)
    assert device.choose_precision("bf16", CPU) == torch.bfloat16
    assert "no instructions for bf16" in device.slow_precision(torch.bfloat16, CPU)
    assert not device.slow_precision(torch.float32, CPU)


def test_more_processes_than_gpus_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match="process 1 of this machine has no GPU of its own: there are 1"):
        device.choose_device("cuda")


def test_a_run_beside_another_is_each_ranks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert device.choose_layout(device.ALONE, CPU).ranks == 1


def test_auto_takes_no_device_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert (device.choose_device("auto"), device.choose_device("mps")) == (CPU, torch.device("mps"))
