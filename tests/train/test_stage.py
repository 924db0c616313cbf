"""A stage's scheduled values while what a step spends changes or is not known yet."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from ingot.core.progress import Progress
from ingot.core.quantities import parse_quantity
from ingot.core.resolve import spec
from ingot.train.stage import Knob, Stage

TOKENS = 100  # of a row


def walk(budget: str, curves: dict[str, Any], steps: int = 10_000, flops: float = 1e9, seconds: float = 0.5) -> list[dict[str, float]]:
    """The factors of every step of a stage of 100 rows a step."""
    stage: Any = Stage(
        budget=parse_quantity(budget),
        batch_rows=100,
        tokens_per_row=TOKENS,
        micro_rows=4,
        open=None,  # type: ignore[arg-type]
        prepare=lambda micro: micro,
        position=lambda row: row / 1e6,
    )
    for name, curve in curves.items():
        schedule = spec("schedule", **curve)
        apply = (lambda factor: setattr(stage, "batch_factor", factor)) if name == "batch" else (lambda factor: None)
        stage.knobs.append(Knob(name, lambda moment, schedule=schedule: schedule.build(moment=moment), apply))
    progress, known, found = Progress(), 0.0, []
    while len(found) < steps and not stage.spent(progress, known):
        found.append(stage.set_knobs(progress, known))
        rows, known = stage.rows_per_step, flops
        progress.advance(rows=rows, tokens=rows * TOKENS, flops=flops, seconds=seconds, epochs=progress.rows / 1e6)
    return found


RAMP = {"name": "constant", "warmup": "50%"}


def test_a_warmup_in_steps_takes_so_many_steps_while_the_batch_grows() -> None:
    found = walk("1M tokens", {"lr": {"name": "warmup_stable_decay", "warmup": "200 steps"}, "batch": RAMP})
    assert [factors["lr"] for factors in found[:200]] == pytest.approx([(step + 0.5) / 200 for step in range(200)])
    assert [factors["lr"] for factors in found[200:230]] == [1.0] * 30 and found[199]["batch"] > 3 * found[120]["batch"]


@pytest.mark.parametrize("curve", [{"name": "cosine"}, {"name": "linear"}, {"name": "infinite", "cooldown": "30 steps"}])
def test_the_decay_begins_where_the_warmup_ended(curve: dict[str, Any]) -> None:
    """At once, neither later nor with a jump, though a step spends ever more of the budget."""
    found = [factors["lr"] for factors in walk("1M tokens", {"lr": curve | {"warmup": "200 steps"}, "batch": RAMP})]
    assert found[199] < 1 and abs(found[200] - 1) < 0.02 and all(later < before for before, later in pairwise(found[200:228]))
    if "cooldown" in curve:
        assert found[229] > 0.55 and found[230] == pytest.approx(0.55)


def test_intervals_and_points_in_steps_are_counted_in_steps() -> None:
    curves = {
        "lr": {"name": "jagged", "every": "50 steps", "warmup": "0%", "rewarm": "5 steps"},
        "drops": {"name": "multi_step", "warmup": "0%", "at": ["130 steps"], "drop": 0.5},
        "decay": {"name": "exponential", "final": 0.01, "at": "250 steps"},
    }
    found = walk("1M tokens", curves | {"batch": RAMP})
    lows = [step for step in range(1, len(found)) if found[step]["lr"] < 0.5 * found[step - 1]["lr"]]
    assert len(found) > 300 and lows == list(range(50, len(found), 50))
    assert [factors["drops"] for factors in found[128:132]] == [1.0, 1.0, 0.5, 0.5]
    assert found[199]["decay"] == pytest.approx(0.01 ** (199.5 / 250)) and found[250]["decay"] == 0.01


@pytest.mark.parametrize("budget", ["1e12 flops", "500 s"])
def test_the_first_step_of_a_budget_that_is_measured_moves(budget: str) -> None:
    """1000 steps, of which a hundred are warm-up. What a step costs is known after the first."""
    found = [factors["lr"] for factors in walk(budget, {"lr": {"name": "linear", "warmup": "10%"}})]
    assert len(found) == 1000
    assert 0 < found[0] <= found[1] == pytest.approx(1.5 / 100)


def test_a_short_budget_of_seconds_begins_no_higher_than_its_warmup() -> None:
    found = [factors["lr"] for factors in walk("30 s", {"lr": {"name": "linear", "warmup": "10%"}}, seconds=0.01)]
    assert 0 < found[0] <= found[1] < found[2] < 0.02
