"""Infinite: cooldown to a constant that no budget ends, and the anneal."""

from __future__ import annotations

import math

import pytest

from ingot.core.progress import Moment, Progress
from ingot.core.quantities import parse_quantity
from ingot.core.resolve import spec


def curve(steps: float, budget: str = "1000 steps", **knobs: object) -> float:
    return spec("schedule", "infinite", **knobs).build(moment=Moment(Progress(steps=steps), parse_quantity(budget), {"steps": 1}))


@pytest.mark.parametrize("shape,middle", [("cosine", 0.5), ("inverse_sqrt", (6**-0.5 - 11**-0.5) / (1 - 11**-0.5))])
def test_phases(shape: str, middle: float) -> None:
    knobs = {"warmup": "100 steps", "cooldown": "300 steps", "constant": 0.5, "anneal": "20%", "final": 0.05, "shape": shape}
    values = [curve(step, **knobs) for step in (50, 100, 250, 400, 700, 800, 900, 1000)]
    assert values == pytest.approx([0.5, 1, 0.5 + 0.5 * middle, 0.5, 0.5, 0.5, math.sqrt(0.5 * 0.05), 0.05])


def test_without_anneal_the_budget_does_not_matter() -> None:
    knobs = {"warmup": "100 steps", "cooldown": "300 steps"}
    for step in (20, 250, 700, 1000):
        assert curve(step, "1000 steps", **knobs) == pytest.approx(curve(step, "50000 steps", **knobs))
    assert curve(49000, "50000 steps", **knobs) == 0.55


def test_an_anneal_longer_than_the_rest_begins_at_the_constant() -> None:
    values = [curve(step, warmup="100 steps", cooldown="300 steps", anneal="90%") for step in (400, 1000)]
    assert values == pytest.approx([0.55, 0.1])
