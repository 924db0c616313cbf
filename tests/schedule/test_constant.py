"""Constant: one, after an optional warm-up."""

from __future__ import annotations

import pytest

from ingot.core.progress import Moment, Progress
from ingot.core.quantities import parse_quantity
from ingot.core.resolve import spec


def curve(steps: float, budget: str = "1000 steps", **knobs: object) -> float:
    return spec("schedule", "constant", **knobs).build(moment=Moment(Progress(steps=steps), parse_quantity(budget), {"steps": 1}))


def test_is_one_from_the_start() -> None:
    assert {curve(step) for step in (0, 1, 500, 1000, 3000)} == {1.0}


def test_warms_up_when_asked() -> None:
    assert [curve(step, warmup="100 steps") for step in (0, 25, 100, 900)] == pytest.approx([0, 0.25, 1, 1])
