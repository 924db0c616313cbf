"""Losses that compare rows: the same gradient in one piece, in several, and on two ranks of every layout; a temperature counted once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ingot.build.check import resolve_run
from ingot.build.parity import compare
from ingot.core.parts import plain
from ingot.core.recipe import load
from ingot.core.resolve import spec
from ingot.train.coupled import coupling
from ingot.train.step import forward_backward


class Objective(nn.Module):
    """loss_i = temperature * (sum_j z_i . z_j - z_i . z_i), z = W x; so that everything can be written out."""

    causal, couples_batch = False, True

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def represent(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"z": model.project(batch["x"])}

    def couple(self, representations: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        z, real = representations["z"], (batch["units"] > 0).double()
        others = z @ (z * real[:, None]).sum(dim=0) - z.square().sum(dim=1)
        return {"pull": self.temperature * others * real}


class StandIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project, self.objective = nn.Linear(3, 4, dtype=torch.float64), Objective()

    def forward(self, batch: dict[str, Tensor], *, ask: Any = "losses") -> Any:
        if callable(ask):
            return ask(self, batch)
        return (
            getattr(self.objective, ask)(self, batch)
            if ask != "losses"
            else self.objective.couple(self.objective.represent(self, batch), batch)
        )


def rows() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "rows": torch.tensor([0, 1, -1, 2, 3, 4]),
        "units": torch.tensor([1, 1, 0, 1, 1, 1]),
        "weights": torch.tensor([1.0, 2.0, 1.0, 1.0, 0.5, 1.0], dtype=torch.float64),
        "x": torch.randn(6, 3, generator=draw, dtype=torch.float64),
        "key": torch.tensor(0),
    }


def gradient(sizes: list[int]) -> tuple[dict[str, Tensor | None], Any]:
    model, batch, layout = StandIn(), rows(), spec("parallel.layout", "single").build()
    window, start = [], 0
    for size in sizes:
        window.append({key: value if value.dim() == 0 else value[start : start + size] for key, value in batch.items()})
        start += size
    found = forward_backward(model, window, layout, {})
    return {name: parameter.grad for name, parameter in model.named_parameters()}, found


def test_pieces_give_the_gradient_of_the_whole() -> None:
    wanted, whole = gradient([6])
    for sizes in ([3, 3], [1, 2, 2, 1]):
        found, split = gradient(sizes)
        assert found["objective.unused"] is None and wanted["objective.unused"] is None
        for name in ("project.weight", "project.bias", "objective.temperature"):
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(split.shares["pull"], whole.shares["pull"])
        torch.testing.assert_close(torch.cat(split.rows), torch.cat(whole.rows))


def test_pieces_by_themselves_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: without the cache, every micro-batch compares its own rows alone."""
    wanted, _ = gradient([6])
    monkeypatch.setattr("ingot.train.step.coupling", lambda *given: None)
    assert not torch.allclose(gradient([3, 3])[0]["project.weight"], wanted["project.weight"])  # type: ignore[arg-type]


def test_one_micro_batch_goes_the_direct_way() -> None:
    layout = spec("parallel.layout", "single").build()
    assert coupling(StandIn(), [rows()], layout) is None and coupling(StandIn(), [rows(), rows()], layout) is not None
    plain_model = StandIn()
    plain_model.objective.couples_batch = False
    assert coupling(plain_model, [rows(), rows()], layout) is None


def test_layouts_and_ranks(repository: Path, tmp_path: Path) -> None:
    """CLIP's two towers and temperature, on two ranks, replicated and sharded."""
    recipe = plain(
        resolve_run(
            load(
                repository / "recipes/image_text/clip_emoji.yaml",
                tiny=True,
                overrides=["precision=fp64", "stages.0.batch=12 pairs", "evaluate.also=[]"],
            )
        )
    )
    cases = compare(recipe, tmp_path, [("replicate", 2), ("fsdp", 2)], [2])
    assert len(cases) == 2 and all(case.equal(1e-11) for case in cases), cases
