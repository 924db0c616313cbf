"""What every schedule keeps, whatever its curve: parametrized over all parts of the slot."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.core.parts import load, parts_in
from ingot.core.progress import Moment, Progress, next_moment
from ingot.core.quantities import Quantity
from ingot.core.resolve import spec

NAMES = list(parts_in("schedule"))
every = pytest.mark.parametrize("name", NAMES)
PER_STEP = {"steps": 1.0, "rows": 8.0, "tokens": 4096.0, "flops": 1e9}


def at(share: float, unit: str = "steps", total: float = 1000.0) -> Moment:
    """A share of a budget of so many steps, the budget written in any unit; every counter stands where it would."""
    spent = {key: share * total * amount for key, amount in PER_STEP.items()}
    return Moment(Progress(**spent), Quantity(total * PER_STEP[unit], unit), PER_STEP)


@every
@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 2))
def test_stays_within_zero_and_one_and_is_pure(name: str, share: float) -> None:
    schedule = spec("schedule", name)
    moment = at(share)
    before = moment.progress.as_dict()
    value = schedule.build(moment=moment)
    assert isinstance(value, float) and 0 <= value <= 1
    assert schedule.build(moment=moment) == value
    assert moment.progress.as_dict() == before


@every
def test_reaches_one_and_holds_its_end_beyond_the_budget(name: str) -> None:
    schedule = spec("schedule", name)
    values = [schedule.build(moment=at(step / 1000)) for step in range(1001)]
    assert max(values) == pytest.approx(1.0, abs=1e-9)
    assert schedule.build(moment=at(1.5)) == values[-1]


def warming(name: str) -> Any:
    """The schedule with its defaults; skipped where it has no warm-up."""
    schedule = spec("schedule", name)
    if not {"peak", "warmup"} & set(schedule.knobs):
        pytest.skip("it has no warm-up")
    return schedule


@every
def test_is_continuous_unless_it_says_that_it_jumps(name: str) -> None:
    schedule = warming(name)
    warmup = 0.3 if "peak" in schedule.knobs else schedule.knobs["warmup"].value or 1.0
    steepest = max(
        abs(schedule.build(moment=at((step + 0.5) / 20000)) - schedule.build(moment=at((step - 0.5) / 20000))) for step in range(1, 20000)
    )
    # steeper than any slope: the warm-up's, or the square root's at the start of a decay over a fifth of the budget
    smooth = steepest <= max(1.01 / (20000 * warmup), 1.01 * math.sqrt(5 / 20000))
    assert smooth != getattr(load("schedule", name), "jumps", False)


@every
@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 1), unit=st.sampled_from(["tokens", "rows", "flops"]))
def test_units_of_the_budget_do_not_matter(name: str, share: float, unit: str) -> None:
    # spans in the budget's own unit in one, converted in the other
    knob = "peak" if "peak" in warming(name).knobs else "warmup"
    schedule = spec("schedule", name, **{knob: "200 steps"})
    assert schedule.build(moment=at(share, unit)) == pytest.approx(
        schedule.build(moment=at(share, "steps")), rel=1e-9, abs=1e-9
    ) or at_jump(name, share)


def at_jump(name: str, share: float) -> bool:
    """Rounding may fall on either side of a jump."""
    return bool(getattr(load("schedule", name), "jumps", False)) and min(abs(share - jump) for jump in (0.8, 0.9)) < 1e-9


@every
@pytest.mark.parametrize("warmup", ["100%", "1000 steps", "2000 steps", "1 steps"])
def test_any_warmup_works(name: str, warmup: str) -> None:
    knob = "peak" if "peak" in warming(name).knobs else "warmup"
    schedule = spec("schedule", name, **{knob: warmup})
    for share in (0.0, 0.0005, 0.5, 0.9995, 1.0, 1.2):
        assert 0 <= schedule.build(moment=at(share)) <= 1


@every
def test_first_step_moves(name: str) -> None:
    # a schedule is read at the middle of the coming step, so the first one is not lost
    moment = next_moment(Progress(), Quantity(1000, "steps"), PER_STEP)
    assert spec("schedule", name).build(moment=moment) > 0
