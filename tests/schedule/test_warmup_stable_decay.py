"""Warm-up, stable, decay: its shapes, and that a longer budget extends a shorter one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.core.progress import Moment, Progress
from ingot.core.quantities import parse_quantity
from ingot.core.resolve import spec


def curve(steps: float, budget: str = "1000 steps", **knobs: object) -> float:
    return spec("schedule", "warmup_stable_decay", **knobs).build(
        moment=Moment(Progress(steps=steps), parse_quantity(budget), {"steps": 1})
    )


@pytest.mark.parametrize("shape,middle", [("linear", 0.5), ("sqrt", 1 - math.sqrt(0.5)), ("cosine", 0.5), ("exponential", 0.09 / 0.99)])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_shapes(shape: str, middle: float, final: float) -> None:
    values = [curve(step, warmup="100 steps", decay="20%", shape=shape, final=final) for step in (50, 100, 799, 800, 900, 1000)]
    assert values == pytest.approx([0.5, 1, 1, 1, final + (1 - final) * middle, final])


@given(step=st.floats(0, 800))
def test_a_longer_budget_is_identical_until_the_shorter_ones_decay(step: float) -> None:
    knobs = {"warmup": "100 steps", "decay": "200 steps"}
    assert curve(step, "1000 steps", **knobs) == pytest.approx(curve(step, "2000 steps", **knobs), rel=1e-12)


def test_the_decay_itself_is_the_same_after_a_longer_stretch() -> None:
    knobs = {"warmup": "100 steps", "decay": "200 steps"}
    for step in (800, 850, 1000):
        assert curve(step, "1000 steps", **knobs) == pytest.approx(curve(step + 1000, "2000 steps", **knobs))


def test_a_decay_longer_than_the_rest_begins_after_the_warmup() -> None:
    values = [curve(step, warmup="400 steps", decay="900 steps", shape="linear") for step in (200, 400, 700, 1000)]
    assert values == pytest.approx([0.5, 1, 0.5, 0])
