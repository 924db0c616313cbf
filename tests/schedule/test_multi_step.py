"""Multi-step: the published drops."""

from __future__ import annotations

import pytest

from ingot.core.progress import Moment, Progress
from ingot.core.quantities import parse_quantity
from ingot.core.resolve import spec


def curve(steps: float, budget: str = "1000 steps", **knobs: object) -> float:
    return spec("schedule", "multi_step", **knobs).build(moment=Moment(Progress(steps=steps), parse_quantity(budget), {"steps": 1}))


def test_drops_to_31_6_and_10_percent() -> None:
    values = [curve(step, warmup="100 steps") for step in (50, 100, 799, 801, 899, 901, 1000)]
    assert values == pytest.approx([0.5, 1, 1, 0.316, 0.316, 0.0999, 0.0999], rel=1e-3)


def test_points_may_be_absolute() -> None:
    values = [curve(step, warmup="0%", at=["100 steps", "30%", "500 steps"], drop=0.5) for step in (0, 100, 299, 300, 600)]
    assert values == pytest.approx([1, 0.5, 0.5, 0.25, 0.125])
