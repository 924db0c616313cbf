"""Jagged cosine: zero at every restart, the cosine between, one warm-up at the start."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ingot.build.check import check
from ingot.core.errors import UserError
from ingot.core.progress import Moment, Progress
from ingot.core.quantities import parse_quantity
from ingot.core.resolve import spec


def curve(steps: float, budget: str = "1000 steps", **knobs: object) -> float:
    return spec("schedule", "jagged", **knobs).build(moment=Moment(Progress(steps=steps), parse_quantity(budget), {"steps": 1}))


def envelope(steps: float, warmup: float = 10, final: float = 0.1) -> float:
    return final + (1 - final) * (1 + math.cos(math.pi * (steps - warmup) / (1000 - warmup))) / 2


def test_falls_to_zero_at_a_restart_and_climbs_to_the_cosine() -> None:
    knobs = {"every": "200 steps", "warmup": "10 steps", "rewarm": "40 steps"}
    assert curve(5, **knobs) == pytest.approx(0.5)
    assert curve(199, **knobs) == pytest.approx(envelope(199))
    for restart in (200, 400, 600, 800):
        assert curve(restart, **knobs) == pytest.approx(0, abs=1e-9)
        assert curve(restart + 10, **knobs) == pytest.approx(envelope(restart + 10) / 4)
        assert curve(restart + 40, **knobs) == pytest.approx(envelope(restart + 40))
        assert curve(restart - 0.5, **knobs) > 0.05


def test_the_first_step_after_a_restart_has_a_rate() -> None:
    """Schedules are read in the middle of the coming step."""
    assert 0 < curve(200.5, every="200 steps", rewarm="40 steps") < 0.05


def test_ends_at_the_final_factor() -> None:
    assert curve(1000, every="25%", final=0.3) == pytest.approx(0.3)
    assert curve(1000, every="70%", final=0.3) == pytest.approx(0.3)
    assert curve(1500, every="25%", final=0.3) == pytest.approx(0.3)


def test_without_restarts_it_is_the_cosine() -> None:
    plain = spec("schedule", "cosine", warmup="1%")
    for steps in (0, 7, 300, 999):
        moment = Moment(Progress(steps=steps), parse_quantity("1000 steps"), {"steps": 1})
        assert curve(steps, every="100%") == pytest.approx(plain.build(moment=moment))


def test_an_empty_interval_is_refused(tiny_recipe: Any) -> None:
    _, problems = check(tiny_recipe({"stages": {0: {"schedule": {"lr": {"name": "jagged", "every": "0%"}}}}}))
    assert ["interval above 0" in str(problem) for problem in problems] == [True]
    with pytest.raises(UserError, match="interval above 0"):
        curve(500, every="0 steps")
