"""Forecasts: the loss is the field's, quantiles are quantiles, what was not observed does not count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve, spec

ENCODER = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2, "position": None}}


def made(given: dict[str, Any] | None = None, **knobs: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model of random weights and a batch of six rows and one of padding."""
    source = spec("data.source", "synthetic_series", **given or {}).build()
    rows = {key: torch.from_numpy(value) for key, value in source.rows(np.arange(7), np.arange(7)).items()}
    rows |= {"rows": torch.tensor([0, 1, 2, 3, 4, 5, -1]), "key": torch.tensor(3)}
    tree = {
        "width": 16,
        "embedding": {"name": "series_patch", "patch": 8},
        "encoder": ENCODER,
        "objective": {"name": "forecasting"} | knobs,
    }
    torch.manual_seed(0)
    return build_model(
        resolve(Recipe(tree), Graph), vocabulary=None, sequence=8, specials={}, dtype=torch.float32, fields=source.fields()
    ), rows


def test_the_loss_is_the_mean_squared_error() -> None:
    model, rows = made()
    batch = model.objective.prepare(rows)
    y = model.objective.forecast(model, batch)
    assert y.shape == rows["future"].shape and batch["units"].tolist() == [32] * 6 + [0]
    loss = model(batch)["squared_error"]
    torch.testing.assert_close(loss.sum() / batch["units"].sum(), ((y - rows["future"])[:6] ** 2).mean())
    scores = model.objective.scores(model, batch)
    torch.testing.assert_close(scores["mae"][:6].mean().float(), (y - rows["future"])[:6].abs().mean())


def test_level_and_scale_go_through() -> None:
    """What is brought to mean 0 and deviation 1 is brought back."""
    model, rows = made()
    moved = rows | {"series": rows["series"] * 3 + 40}
    torch.testing.assert_close(model.objective.forecast(model, moved), model.objective.forecast(model, rows) * 3 + 40, rtol=1e-4, atol=1e-3)


def test_what_was_not_observed_does_not_count() -> None:
    model, rows = made({"missing": 0.3})
    batch = model.objective.prepare(rows)
    assert batch["units"][:6].tolist() == rows["future_observed"][:6].flatten(1).sum(dim=1).tolist()
    other = batch | {
        "future": torch.where(rows["future_observed"], rows["future"], 1e6),
        "series": torch.where(rows["observed"], rows["series"], -1e6),
    }
    torch.testing.assert_close(model(other)["squared_error"], model(batch)["squared_error"], rtol=1e-4, atol=1e-2)


def test_the_best_constant_under_the_quantile_loss_is_the_quantile() -> None:
    model, rows = made(quantiles=[0.1, 0.5, 0.9])
    values = torch.linspace(0, 1, 16).expand(7, -1)[..., None].expand(-1, -1, 2)
    batch = model.objective.prepare(rows | {"future": values.contiguous()})
    level = torch.zeros(3, requires_grad=True)
    model.objective.forecasts = lambda *_: level[None, :, None, None].expand(7, 3, 16, 2)
    optimizer = torch.optim.Adam([level], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        model(batch)["quantile"].sum().backward()
        optimizer.step()
    torch.testing.assert_close(level.detach(), torch.tensor([0.1, 0.5, 0.9]), atol=0.06, rtol=0)
    model.objective.forecasts = lambda *_: torch.zeros(7, 3, 16, 2)
    assert set(model.objective.scores(model, batch)) == {"mae", "mse", "below_0.1", "below_0.5", "below_0.9"}


def test_a_source_without_future_is_refused() -> None:
    with pytest.raises(UserError, match=r"set data\.train\.horizon"):
        made({"horizon": 0})


@pytest.mark.parametrize("horizon", [1, 4])
def test_a_horizon_that_is_not_the_futures_is_refused(horizon: int) -> None:
    """One step against sixteen would be compared with all of them."""
    with pytest.raises(UserError, match=f"objective.horizon: forecasts of {horizon} steps do not meet futures of 16"):
        made(horizon=horizon)
