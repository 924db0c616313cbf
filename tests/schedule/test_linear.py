"""Linear decay: a straight line from the warm-up's end to the final factor."""

from __future__ import annotations

import pytest

from ingot.core.progress import Moment, Progress
from ingot.core.quantities import parse_quantity
from ingot.core.resolve import spec


def curve(steps: float, budget: str = "1000 steps", **knobs: object) -> float:
    return spec("schedule", "linear", **knobs).build(moment=Moment(Progress(steps=steps), parse_quantity(budget), {"steps": 1}))


def test_is_a_straight_line() -> None:
    assert [curve(step, warmup="200 steps", final=0.5) for step in (100, 200, 400, 600, 1000)] == pytest.approx([0.5, 1, 0.875, 0.75, 0.5])


def test_reaches_zero_by_default() -> None:
    assert curve(1000) == 0
