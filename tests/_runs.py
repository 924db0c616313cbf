"""What tests of whole runs share: a stop in the middle, rows that are bad, what the ledger says, what the weights are."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest
import torch

from ingot.model.graph import Model

PLANTED = range(17, 19)  # rows of the fifth step of four rows


class StopAt:
    """A reporter that stops the run after a step, as a signal would."""

    def __init__(self, step: int):
        self.at = step

    def step(self, line: dict[str, Any]) -> None:
        if line["step"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def poison(monkeypatch: pytest.MonkeyPatch, rows: range = PLANTED, value: float = float("nan"), gradient_only: bool = False) -> list[int]:
    """Make the loss of some rows bad, by their global number, in training; returns the numbers of all rows that were met."""
    real = Model.forward
    met: list[int] = []

    def forward(self: Model, batch: dict[str, torch.Tensor], **asked: Any) -> Any:
        losses = real(self, batch, **asked)
        if not torch.is_grad_enabled():
            return losses
        met.extend(batch["rows"].tolist())
        bad = (batch["rows"] >= rows.start) & (batch["rows"] < rows.stop)
        if gradient_only and bad.any():
            next(iter(losses.values())).register_hook(lambda gradient: gradient * torch.where(bad, value, 1.0))
            return losses
        return {name: loss * torch.where(bad, value, 1.0) for name, loss in losses.items()}

    monkeypatch.setattr(Model, "forward", forward)
    return met


def lines(run: Any, *kinds: str) -> list[dict[str, Any]]:
    """The lines in a run's ledger, of some kinds alone where they are named."""
    found = map(json.loads, (run.folder / "ledger.jsonl").read_text().splitlines())
    return [line for line in found if not kinds or line["kind"] in kinds]


def weights(run: Any) -> dict[str, Any]:
    """Copies of the model's tensors by name."""
    return {name: value.detach().clone() for name, value in run.model.state_dict().items()}
