"""A model whose loss of every row is told, windows of numbered rows, and short whole runs: for tests of hooks in the step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from _runs import StopAt, lines, weights
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
        found.append(
            {
                "rows": numbers,
                "source": numbers.clamp(min=0) % 2,
                "tokens": tokens,
                "targets": targets,
                "units": real * length,
                "segments": real[:, None].expand(-1, length).int(),
                "positions": torch.arange(length).expand(micro, -1),
                "key": torch.tensor(7),
            }
        )
    return found


def state(model: nn.Module) -> Any:
    return SimpleNamespace(model=model, extra={})


def kept(found: list[dict[str, Tensor]]) -> list[int]:
    """The rows of a window, padding left out."""
    return [row for micro in found for row in micro["rows"].tolist() if row >= 0]


def trained(recipe: Any, stop: int | None = None) -> Any:
    """The run of a recipe, trained, perhaps stopped by a signal."""
    run = ingot.build(recipe)
    run.train(StopAt(stop) if stop else None)
    return run


def on_one_and_on_two(worker: Path, folder: Path) -> list[Any]:
    """What the worker saves as one process, and as two ranks."""
    environment = os.environ | {"PYTHONPATH": str(Path(ingot.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    results = []
    for ranks in (1, 2):
        result = folder / f"result{ranks}"
        commands = [
            [sys.executable, str(worker), str(rank), str(ranks), str(folder / f"store{ranks}"), str(result)] for rank in range(ranks)
        ]
        processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
        errors = [process.communicate(timeout=120)[1] for process in processes]
        assert result.exists(), "\n".join(errors)
        results.append(torch.load(result, weights_only=True))
    return results


@pytest.fixture
def told() -> SimpleNamespace:
    """Told(losses): a model; window(rows, micro); state(model); kept(window) -> row numbers."""
    return SimpleNamespace(Told=Told, window=window, state=state, kept=kept)


@pytest.fixture
def runs() -> SimpleNamespace:
    """trained(recipe, stop=None) -> run; lines(run, kind="step"); weights(run)."""
    return SimpleNamespace(trained=trained, lines=lambda run, kind="step": lines(run, kind), weights=weights)


@pytest.fixture
def one_and_two(tmp_path: Path) -> Any:
    """one_and_two(worker): the results of a script beside the test, run as one process and as two ranks."""
    return lambda worker: on_one_and_on_two(worker, tmp_path)
