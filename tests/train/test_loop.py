"""The loop around a step: what a stage's first step goes by, what hooks cost, and what comes after a roll-back."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from _runs import poison

from ingot.build.run import build
from ingot.core.progress import Progress
from ingot.core.quantities import parse_quantity
from ingot.hook.ema import EMA
from ingot.ledger.ledger import lived, read
from ingot.train.moments import Due
from ingot.train.stage import Stage

BACK = {"anomaly": {"policy": "roll_back"}}
pytestmark = pytest.mark.usefixtures("any_speed")


def trained(recipe: Any) -> list[dict[str, Any]]:
    """The lines of its ledger."""
    run = build(recipe)
    run.train()
    return read(run.folder)


def steps(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == "step"]


def test_a_stage_in_flops_does_not_begin_by_what_the_stage_before_cost(tiny_recipe: Any) -> None:
    """A step of the first stage costs as much as sixteen of the second, which is past the second's warm-up."""
    first = {"budget": "2 steps", "batch": "64 rows", "optimizer": {"name": "adamw", "lr": 0.003}}
    second = first | {"budget": "4e8 flops", "batch": "4 rows", "schedule": {"lr": {"name": "linear", "warmup": "50%"}}}
    found = [line for line in steps(trained(tiny_recipe({"stages": [first, second]}))) if line["stage"] == 1]
    rates = [line["lr"] for line in found]
    assert len(rates) > 10 and rates[0] < rates[1] < rates[2] < 0.5 * max(rates)


def test_what_hooks_do_after_the_update_takes_time(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = EMA.stepped

    def slow(self: EMA, *given: Any) -> None:
        time.sleep(0.05)
        real(self, *given)

    monkeypatch.setattr(EMA, "stepped", slow)
    found = steps(trained(tiny_recipe({"stages": {0: {"budget": "4 steps", "hooks": ["ema"]}}})))
    assert all(line["phases"]["hooks"] > 0.05 and line["step_seconds"] > 0.05 for line in found[1:])
    assert found[-1]["seconds"] == pytest.approx(sum(line["step_seconds"] for line in found))
    assert sum(found[-1]["phases"].values()) == pytest.approx(found[-1]["step_seconds"], abs=1e-3)


def test_an_evaluation_that_a_roll_back_undid_is_made_again(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is due at the first step after it."""
    poison(monkeypatch, range(64, 66))
    lines = lived(trained(tiny_recipe(BACK, {"checkpoint": {"every": "5 steps"}, "evaluate": {"every": "2 steps"}})))
    assert [line["step"] for line in lines if line.get("name") == "rollback"] == [5]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [0, 2, 4, 6, 8, 10, 12]


def test_bad_rows_are_passed_over_where_windows_begin_elsewhere(tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What undone steps cost lets a batch that is scheduled over FLOPs grow sooner, so the same windows do not come again."""
    met = poison(monkeypatch, range(100, 102))
    stage = {"budget": "2e9 flops", "schedule": {"batch": {"name": "constant", "warmup": "60%"}}}
    lines = trained(tiny_recipe(BACK, {"stages": {0: stage}, "checkpoint": {"every": "15 steps"}, "evaluate": {"every": "100%"}}))
    (event,) = [line for line in lines if line.get("name") == "rollback"]
    first, last = (int(word) for word in event["message"].split("rows ")[1].split(" will")[0].split(" to "))
    assert met.count(100) == met.count(101) == 1 and met.count(first - 12) == 2
    after = lines[lines.index(event) :]
    windows = [range(line["first_row"], line["first_row"] + line["batch_rows"]) for line in steps(after)]
    assert len(windows) > 10 and not any(set(window) & set(range(first, last + 1)) for window in windows)
    assert first not in {window.start for window in windows} and lines[-1]["reason"] == "finished"


@pytest.mark.parametrize(("budget", "warmup"), [("12 steps", "1k tokens"), ("3k tokens", "30%")])
def test_a_roll_back_over_the_first_window_leaves_schedules_whole(
    tiny_recipe: Any, monkeypatch: pytest.MonkeyPatch, budget: str, warmup: str
) -> None:
    """Rows were passed over, and of tokens nothing is known yet."""
    poison(monkeypatch, range(2, 4))
    stage = {"budget": budget, "schedule": {"lr": {"name": "linear", "warmup": warmup}}}
    rates = [line["lr"] for line in steps(trained(tiny_recipe(BACK, {"stages": {0: stage}})))]
    assert 0 < rates[0] == rates[1] < rates[2]  # the step that was undone, and the one made in its place


@pytest.mark.parametrize(("percent", "budget"), [(2, 70), (1, 110), (10, 70)])
def test_an_interval_is_over_at_its_step(percent: int, budget: int) -> None:
    """Also where a share of the budget is no exact number of floating point: five times 2 % of 70 steps are 7."""
    stage: Any = Stage(parse_quantity(f"{budget} steps"), 1, 1, 1, None, None, None)  # type: ignore[arg-type]
    due, state = Due(parse_quantity(f"{percent}%")), SimpleNamespace(progress=Progress())
    fired = []
    for step in range(1, budget + 1):
        state.progress.advance(rows=1, tokens=1, flops=1.0, seconds=1.0)
        fired += [step] if due.passed(stage, state) else []  # type: ignore[arg-type]
    passed = [100 * step // (percent * budget) for step in range(budget + 1)]
    assert fired == [step for step in range(1, budget + 1) if passed[step] > passed[step - 1]]
