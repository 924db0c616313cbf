"""Progress, moments and spans: pure numbers that convert between units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.core.progress import Progress, next_moment
from ingot.core.quantities import Quantity

PER_STEP = {"steps": 1.0, "rows": 4.0, "tokens": 400.0, "flops": 1e9}


@given(st.integers(0, 999))
def test_the_middle_of_a_step_is_the_same_in_every_unit(step: int) -> None:
    progress = Progress(steps=step, rows=4 * step, tokens=400 * step, flops=1e9 * step)
    fractions = {unit: next_moment(progress, Quantity(1000 * amount, unit), PER_STEP).fraction for unit, amount in PER_STEP.items()}
    assert all(value == pytest.approx((step + 0.5) / 1000) for value in fractions.values())


def test_spans_convert_to_the_budget() -> None:
    moment = next_moment(Progress(steps=50, tokens=20_000, rows=200), Quantity(400_000, "tokens"), PER_STEP)
    assert moment.share(Quantity(100, "steps")) == pytest.approx(0.1)
    assert moment.share(Quantity(0.25, "fraction")) == 0.25
    assert moment.through(Quantity(100, "steps")) == pytest.approx(0.505)
    assert moment.through(Quantity(0, "steps")) == float("inf")
    assert moment.share_from_start(Quantity(100, "steps")) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="cannot be compared"):
        next_moment(Progress(), Quantity(60, "seconds"), {"steps": 1}).share(Quantity(10, "tokens"))


def test_what_is_behind_is_counted_in_its_own_unit() -> None:
    """100 steps are 100 steps, however large the coming one is."""
    spent = Progress(steps=50, rows=50, tokens=5_000)  # steps of a row, while the coming one is of ten
    moment = next_moment(spent, Quantity(400_000, "tokens"), {"steps": 1.0, "rows": 10.0, "tokens": 1000.0})
    assert moment.through(Quantity(100, "steps")) == 50.5 / 100
    assert moment.through(Quantity(110, "rows")) == 55 / 110
    assert moment.share_from_start(Quantity(50.5, "steps")) == pytest.approx(moment.fraction)  # where the span has just ended
    assert moment.share(Quantity(40, "steps")) == pytest.approx(0.1)  # what lies ahead goes by the coming step


@pytest.mark.parametrize("unit", ["flops", "seconds"])
def test_a_first_step_of_unknown_cost_moves_a_little(unit: str) -> None:
    per_step = {"steps": 1.0, "tokens": 400.0, unit: 0.0}
    moment = next_moment(Progress(), Quantity(30, unit), per_step)
    assert 0 < moment.through(Quantity(0.01, "fraction")) == moment.through(Quantity(3, unit)) < 0.01
    assert moment.through(Quantity(100, "steps")) == 0.005 and moment.share(Quantity(100, "steps")) == 1.0
    other = next_moment(Progress(), Quantity(1e6, "tokens"), per_step)
    assert 0 < other.through(Quantity(3, unit)) < 0.01 and other.share(Quantity(3, unit)) == 0.0
    with pytest.raises(ValueError, match="cannot be compared"):
        next_moment(Progress(), Quantity(9, "steps"), {"steps": 1.0, "audio_seconds": 0.0}).through(Quantity(60, "audio_seconds"))


def test_stages_reset_counters_and_keep_totals() -> None:
    progress = Progress(entering=False)
    progress.advance(rows=4, tokens=400, flops=1e9, seconds=0.5, epochs=0.1)
    progress.advance(rows=4, tokens=400, flops=1e9, seconds=0.5, epochs=0.2)
    progress.next_stage()
    assert (progress.stage, progress.entering, progress.steps, progress.tokens, progress.epochs) == (1, True, 0, 0, 0.0)
    assert (progress.total_steps, progress.total_tokens, progress.total_seconds) == (2, 800, 1.0)
    assert Progress.from_dict(progress.as_dict() | {"of_a_later_version": 1}) == progress


def test_what_undone_steps_spent_is_gone_but_is_not_what_a_step_takes() -> None:
    progress = Progress()
    for _ in range(4):
        progress.advance(rows=8, tokens=80, flops=100.0, seconds=2.0)
    saved = Progress.from_dict(progress.as_dict())
    for _ in range(3):
        progress.advance(rows=8, tokens=80, flops=100.0, seconds=2.0)
    saved.keep_spent(progress)
    assert (saved.steps, saved.rows) == (4, 32) and (saved.seconds, saved.flops) == (saved.total_seconds, saved.total_flops) == (
        14.0,
        700.0,
    )
    assert (saved.seconds - saved.lost_seconds) / saved.steps == 2.0
    again = Progress.from_dict(saved.as_dict())
    again.advance(rows=8, tokens=80, flops=100.0, seconds=2.0)
    saved.keep_spent(again)
    assert saved.lost_seconds == 8.0 and saved.seconds == 16.0
    saved.next_stage()
    assert saved.lost_seconds == 0.0 and saved.total_seconds == 16.0
