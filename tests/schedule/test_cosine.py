"""Cosine decay: endpoints, midpoint, symmetry."""

from __future__ import annotations

import pytest

from ingot.core.progress import Moment, Progress
from ingot.core.quantities import parse_quantity
from ingot.core.resolve import spec


def curve(steps: float, budget: str = "1000 steps", **knobs: object) -> float:
    return spec("schedule", "cosine", **knobs).build(moment=Moment(Progress(steps=steps), parse_quantity(budget), {"steps": 1}))


def test_endpoints_and_midpoint() -> None:
    assert curve(0, warmup="10%") == 0
    assert curve(50, warmup="10%") == pytest.approx(0.5)
    assert curve(100, warmup="10%") == 1
    assert curve(550, warmup="10%", final=0.2) == pytest.approx(0.6)
    assert curve(1000, warmup="10%", final=0.2) == pytest.approx(0.2)


def test_is_symmetric_about_its_middle() -> None:
    for step in (0, 100, 333):
        assert curve(step, warmup="0%", final=0) + curve(1000 - step, warmup="0%", final=0) == pytest.approx(1)


def test_a_warmup_of_the_whole_budget_ends_at_one() -> None:
    assert curve(1000, warmup="100%", final=1.0) == 1
