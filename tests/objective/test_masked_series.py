"""Masked patches of series: as many of every channel, hidden truly, scored against what the embedding reads."""

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
        "objective": {"name": "masked_series"} | knobs,
    }
    torch.manual_seed(0)
    return build_model(
        resolve(Recipe(tree), Graph), vocabulary=None, sequence=8, specials={}, dtype=torch.float32, fields=source.fields()
    ), rows


def test_every_channel_hides_its_share() -> None:
    model, rows = made(rate=0.4)
    masked = model.objective.prepare(rows)["masked"].view(7, 2, 8)
    assert (masked.sum(dim=2) == 3).all() and not torch.equal(masked[:, 0], masked[:, 1])
    together = made(consistent=True)[0].objective.prepare(rows)["masked"].view(7, 2, 8)
    assert torch.equal(together[:, 0], together[:, 1])


def test_a_rate_that_is_scheduled_hides_its_share() -> None:
    model, rows = made(rate=0.4)
    model.objective.rate = 0.4 * 2
    assert (model.objective.prepare(rows)["masked"].view(7, 2, 8).sum(dim=2) == 6).all()


def test_guessing_the_mean_has_the_error_of_guessing_the_mean() -> None:
    """Also where values are missing: of every patch both are means over what was observed."""
    model, rows = made({"missing": 0.5})
    with torch.no_grad():
        model.objective.head.weight.zero_()
        model.objective.head.bias.zero_()
    found = model.objective.scores(model, model.objective.prepare(rows))["relative_error"][:6]
    torch.testing.assert_close(found, torch.ones(6, dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize("hide", ["vector", "zeros"])
def test_hidden_values_are_hidden(hide: str) -> None:
    """What is hidden changes targets and the channel's mean, never what the encoder reads; without normalization nothing of it is left."""
    model, rows = made(hide=hide)
    model.embedding.normalize = None
    batch = model.objective.prepare(rows)
    patches = batch["masked"].view(7, 2, 8, 1).expand(-1, -1, -1, 8).reshape(7, 2, 64).transpose(1, 2)
    other = batch | {"series": torch.where(patches, 77.0, batch["series"])}
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_hook(lambda module, given, output: seen.append(output))
    first, second = model(batch)["squared_error"], model(other)["squared_error"]
    assert torch.equal(seen[0], seen[1]) and not torch.equal(first, second)


def test_the_loss_is_per_hidden_patch() -> None:
    model, rows = made(hide="zeros")
    batch = model.objective.prepare(rows)
    h = model.encode(batch | {"blanked": batch["masked"]}, causal=False)
    gap = (model.objective.logits(model, h) - model.embedding.values(batch)) ** 2
    loss = model(batch)["squared_error"].sum() / batch["units"].sum()
    torch.testing.assert_close(loss, gap[:6].mean(dim=2)[batch["masked"][:6]].mean())


def test_what_was_not_observed_is_not_scored() -> None:
    model, rows = made({"missing": 0.5})
    rows["observed"][0] = False
    batch = model.objective.prepare(rows)
    assert batch["units"][0] == 0 and model(batch)["squared_error"][0] == 0


def test_a_series_without_future_will_do() -> None:
    model, rows = made({"horizon": 0})
    assert "future" not in rows and model(model.objective.prepare(rows))["squared_error"].isfinite().all()
    with pytest.raises(UserError, match="the data gives no series"):
        spec("nn.embedding", "series_patch", patch=4).build(width=8, linear=spec("nn.linear", "dense"), fields={})
