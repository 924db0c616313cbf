"""Inverse square root: Vaswani et al.'s curve, independent of the budget."""

from __future__ import annotations

import pytest

from ingot.core.errors import UserError
from ingot.core.progress import Moment, Progress
from ingot.core.quantities import parse_quantity
from ingot.core.resolve import spec


def curve(steps: float, budget: str = "1000 steps", **knobs: object) -> float:
    return spec("schedule", "inverse_sqrt", **knobs).build(moment=Moment(Progress(steps=steps), parse_quantity(budget), {"steps": 1}))


def test_is_the_published_curve_scaled_to_one() -> None:
    warmup = 40

    def published(step: int) -> float:
        return min(step**-0.5, step * warmup**-1.5)

    for step in (1, 10, 40, 41, 500, 1000):
        assert curve(step, warmup="40 steps") == pytest.approx(published(step) / published(warmup))


def test_does_not_depend_on_the_budget() -> None:
    assert curve(700, "1000 steps", warmup="40 steps") == pytest.approx(curve(700, "9000 steps", warmup="40 steps"))


def test_an_empty_warmup_is_refused() -> None:
    with pytest.raises(UserError, match="warmup above 0"):
        curve(10, warmup="0%")
