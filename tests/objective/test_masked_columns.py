"""Masked cells: never those that are blank, hidden truly, each kind of loss by its own cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve, spec

ENCODER = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2, "position": None}}


def made(given: dict[str, Any] | None = None, **knobs: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model of random weights and a batch of six rows and one of padding."""
    source = spec("data.source", "synthetic_table", **given or {}).build()
    rows = {key: torch.from_numpy(value) for key, value in source.rows(np.arange(7), np.arange(7)).items()}
    rows |= {"rows": torch.tensor([0, 1, 2, 3, 4, 5, -1]), "key": torch.tensor(3)}
    tree = {"width": 16, "embedding": "columns", "encoder": ENCODER, "objective": {"name": "masked_columns"} | knobs}
    torch.manual_seed(0)
    return build_model(
        resolve(Recipe(tree), Graph), vocabulary=None, sequence=8, specials={}, dtype=torch.float32, fields=source.fields()
    ), rows


def test_only_cells_that_hold_something() -> None:
    model, rows = made({"missing": 0.4}, rate=0.5)
    batch = model.objective.prepare(rows)
    there = model.embedding.present(rows)
    assert not (batch["masked"] & ~there).any()
    wanted = [min(count, max(1, round(0.5 * count))) for count in there[:6].sum(dim=1).tolist()]
    assert len(set(wanted)) > 1 and batch["units"].tolist() == [*wanted, 0]
    assert torch.equal(batch["units"], batch["units/numbers"] + batch["units/categories"])


def test_knobs_that_are_scheduled_are_read_anew() -> None:
    model, rows = made({"missing": 0.0}, rate=0.5)
    model.objective.rate, model.objective.numeric_weight = 1.0, 3.0
    batch = model.objective.prepare(rows)
    assert batch["units"].tolist() == [6] * 6 + [0]
    torch.testing.assert_close(model(batch)["numbers"], 3 * model.objective.losses(model, batch)["numbers"])


def test_hidden_cells_are_hidden() -> None:
    model, rows = made({"missing": 0.0}, rate=0.5)
    batch = model.objective.prepare(rows)
    other = batch | {
        "numbers": torch.where(batch["masked"][:, :4], 50.0, batch["numbers"]),
        "categories": torch.where(batch["masked"][:, 4:], 1, batch["categories"]),
    }
    for one, another in zip(model.objective.predictions(model, batch), model.objective.predictions(model, other), strict=True):
        assert torch.equal(one, another)


def test_losses_by_hand() -> None:
    model, rows = made(rate=0.5, numeric_weight=2.0)
    batch = model.objective.prepare(rows)
    numbers, scores = model.objective.predictions(model, batch)
    losses = model(batch)
    for row in range(6):
        hidden = batch["masked"][row]
        squared = sum(2 * float(numbers[row, k].detach() - rows["numbers"][row, k]) ** 2 for k in range(4) if hidden[k])
        nll = sum(-float(scores[row, j].log_softmax(0)[rows["categories"][row, j]]) for j in range(2) if hidden[4 + j])
        assert abs(squared - float(losses["numbers"][row])) < 1e-4 and abs(nll - float(losses["categories"][row])) < 1e-4


def test_what_is_reported_is_a_mean_over_the_cells_of_its_kind() -> None:
    found = []
    for weight in (0.0, 1.0, 5.0):
        model, rows = made(rate=0.2, numeric_weight=weight)
        evaluator = spec("evaluate", "loss").build(layout=spec("parallel.layout", "single").build())
        found.append(evaluator(model, windows=[[rows]], objective=model.objective, token_bytes=None))
    batch = model.objective.prepare(rows)
    numbers, scores = model.objective.predictions(model.eval(), batch)
    hidden, of_kind = batch["masked"][:, :4], batch["masked"][:, 4:]
    assert (hidden.sum(dim=1) == 0).any() and (of_kind.sum(dim=1) == 0).any()  # rows that ask for one kind alone
    wanted = float((numbers - rows["numbers"])[hidden].square().mean().detach())
    right = float((scores.argmax(dim=2) == rows["categories"])[of_kind].double().mean())
    assert found[1] == found[2] and found[1]["units"] == int(hidden.sum())
    assert found[1]["loss"] == pytest.approx(wanted, rel=1e-5) == pytest.approx(found[1]["numbers_mse"], rel=1e-5)
    assert found[1]["categories_accuracy"] == pytest.approx(right, abs=1e-9) and found[0]["units"] == int(of_kind.sum())
