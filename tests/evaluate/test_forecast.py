"""Forecast errors over windows, by hand; padding and what was not observed do not count."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ingot.core.errors import UserError
from ingot.core.resolve import spec


class Level(nn.Module):
    """Forecasts one number for all."""

    def forward(self, batch: dict[str, torch.Tensor], ask: str) -> torch.Tensor:
        assert ask == "forecast"
        return torch.full_like(batch["future"], 2.0)


def test_by_hand() -> None:
    evaluator = spec("evaluate", "forecast").build(layout=spec("parallel.layout", "single").build())
    series = torch.tensor([[[1.0], [3.0]], [[5.0], [0.0]], [[9.0], [9.0]]])
    micro = {
        "rows": torch.tensor([4, 5, -1]),
        "series": series,
        "observed": torch.tensor([[[True], [True]], [[True], [False]], [[True], [True]]]),
        "future": torch.tensor([[[4.0], [0.0]], [[7.0], [100.0]], [[8.0], [8.0]]]),
        "future_observed": torch.tensor([[[True], [True]], [[True], [False]], [[True], [True]]]),
    }
    found = evaluator(Level(), windows=[[micro]], objective=SimpleNamespace(forecast=None))
    wanted = {
        "mse": (4 + 4 + 25) / 3,
        "mae": (2 + 2 + 5) / 3,
        "repeat_mse": (1 + 9 + 4) / 3,
        "repeat_mae": (1 + 3 + 2) / 3,
        "mean_mse": (4 + 4 + 4) / 3,
        "mean_mae": 2.0,
        "windows": 2.0,
    }
    assert found == pytest.approx(wanted)


def test_an_objective_that_does_not_forecast_is_refused() -> None:
    evaluator = spec("evaluate", "forecast").build(layout=spec("parallel.layout", "single").build())
    with pytest.raises(UserError, match="wants an objective that forecasts"):
        evaluator(Level(), windows=[], objective=object())
