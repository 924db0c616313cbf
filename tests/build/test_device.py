"""The precision that a run computes in, on processors with and without instructions for bf16."""

from __future__ import annotations

import pytest
import torch

from ingot.build import device
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
