"""A model whose loss of every row is told, windows of numbered rows, and short whole runs: for tests of hooks in the step."""

from __future__ import annotations

import json
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ingot


class Told(nn.Module):
    """model(batch) gives units times losses[row]; a padding row gives 0."""

    def __init__(self, losses: list[float]):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.losses = torch.tensor(losses)
        self.graded = self.trained = 0

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.graded += torch.is_grad_enabled()
        self.trained += self.training
        return {"loss": self.weight * self.losses[batch["rows"].clamp(min=0)] * batch["units"]}


def window(rows: list[int], micro: int, length: int = 4) -> list[dict[str, Tensor]]:
    """Micro-batches of numbered rows, filled up with padding, as a prepared window."""
    found = []
    for start in range(0, len(rows), micro):
        numbers = torch.tensor((rows[start : start + micro] + [-1] * micro)[:micro])
        real = numbers >= 0
        tokens = (numbers[:, None] * 10 + torch.arange(length)) * real[:, None]
        targets = torch.where(real[:, None], tokens + 1, -100)
        found.append({"rows": numbers, "source": numbers.clamp(min=0) % 2, "tokens": tokens, "targets": targets, "units": real * length,
                      "segments": real[:, None].expand(-1, length).int(), "positions": torch.arange(length).expand(micro, -1), "key": torch.tensor(7)})  # fmt: skip
    return found


def state(model: nn.Module) -> Any:
    return SimpleNamespace(model=model, extra={})


def kept(found: list[dict[str, Tensor]]) -> list[int]:
    """The rows of a window, padding left out."""
    return [row for micro in found for row in micro["rows"].tolist() if row >= 0]


class StopAt:
    """A reporter that stops the run after a step, as a signal would."""

    def __init__(self, step: int):
        self.at = step

    def step(self, line: dict[str, Any]) -> None:
        if line["step"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def lines(run: Any, kind: str = "step") -> list[dict[str, Any]]:
    """The lines of a kind in a run's ledger."""
    return [line for line in map(json.loads, (run.folder / "ledger.jsonl").read_text().splitlines()) if line["kind"] == kind]


def weights(run: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in run.model.state_dict().items()}


def trained(recipe: Any, stop: int | None = None) -> Any:
    """The run of a recipe, trained, perhaps stopped by a signal."""
    run = ingot.build(recipe)
    run.train(StopAt(stop) if stop else None)
    return run


@pytest.fixture
def told() -> SimpleNamespace:
    """Told(losses): a model; window(rows, micro); state(model); kept(window) -> row numbers."""
    return SimpleNamespace(Told=Told, window=window, state=state, kept=kept)


@pytest.fixture
def runs() -> SimpleNamespace:
    """trained(recipe, stop=None) -> run; lines(run, kind="step"); weights(run)."""
    return SimpleNamespace(trained=trained, lines=lines, weights=weights)
