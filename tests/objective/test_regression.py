"""Regression: squared and Huber errors of scaled values, missing ones left out, errors told in their own units."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ingot.build.graph import build_model
from ingot.build.schema import Graph
from ingot.core.errors import UserError
from ingot.core.recipe import Recipe
from ingot.core.resolve import resolve
from ingot.core.seams import Field
from ingot.model.graph import Model

FIELDS = {"tokens": Field((6,), "int64", 20), "values": Field((2,))}


def model(**knobs: Any) -> Model:
    tree = {
        "width": 16,
        "embedding": "token",
        "encoder": {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}},
        "objective": {"name": "regression", "mean": [1.0, 10.0], "std": [2.0, 5.0]} | knobs,
    }
    torch.manual_seed(0)
    return build_model(resolve(Recipe(tree), Graph), vocabulary=20, sequence=6, specials={}, dtype=torch.float32, fields=FIELDS)


BATCH = {
    "rows": torch.tensor([0, 1, -1]),
    "tokens": torch.arange(18).view(3, 6),
    "values": torch.tensor([[2.0, 4.0], [float("nan"), 30.0], [0.0, 0.0]]),
}


@pytest.mark.parametrize("huber", [None, 0.3])
def test_errors_of_scaled_values(huber: float | None) -> None:
    built = model(huber=huber)
    given = built.objective.prepare(BATCH)
    assert given["units"].tolist() == [2, 1, 0]
    z = built.logits(built.features(given))
    wanted = torch.tensor([[0.5, -1.2], [0.0, 4.0]])
    each = 0.5 * (z[:2] - wanted) ** 2 if huber is None else F.huber_loss(z[:2], wanted, reduction="none", delta=huber)
    (loss,) = built(given).values()
    torch.testing.assert_close(loss, torch.stack([each[0].sum(), each[1, 1], torch.zeros(())]))
    loss.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in built.parameters())


def test_errors_are_told_in_the_values_units() -> None:
    built = model()
    with torch.no_grad():
        built.objective.head.weight.zero_()
    given = built.objective.prepare(BATCH)
    found = built.objective.scores(built, given)
    assert found["absolute_error"].tolist()[:2] == pytest.approx([(1 + 6) / 2, 20.0]) and found["mean_squared_error"].tolist()[
        :2
    ] == pytest.approx([(1 + 36) / 2, 400.0])


def test_rows_without_values_are_refused() -> None:
    with pytest.raises(UserError, match="name their columns"):
        model().objective.prepare({"rows": torch.arange(2)})


def test_numbers_that_do_not_meet_the_values_are_refused() -> None:
    """One number against two values would be compared with both."""
    for outputs in (1, 3):
        with pytest.raises(UserError, match=f"objective.outputs: {outputs} numbers do not meet rows of 2 values"):
            model(outputs=outputs, mean=0.0, std=1.0)
    with pytest.raises(UserError, match=r"objective.mean wants one number or one for each of 2 values, got \[1.0, 2.0, 3.0\]"):
        model(mean=[1.0, 2.0, 3.0])
