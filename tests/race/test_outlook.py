"""How running trials will end: forecast from their ledgers, drawn, and read by no verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.race.course import Course, survey_course
from ingot.race.outlook import RUNNING, outlook, tell_outlook
from ingot.race.spec import Race
from ingot.race.trials import Store, Trial, write_whole

Make = Callable[..., Race]
EVALUATIONS = 24


def curve(arm: str, seed: int) -> list[float]:
    """A power law whose floor depends on the arm and, a little, on the seed; on from the first evaluation."""
    return [2.0 + 0.3 * (arm == "other") + 0.01 * (seed % 3) + 2.0 * (place + 1) ** -0.6 for place in range(EVALUATIONS)]


def ledger(place: Path, values: list[float], *, budget: float = 5120.0) -> None:
    """A run's ledger up to as many evaluations as there are values."""
    (place / "run").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, value in enumerate(values, 1):
        at = {"step": number, "tokens": number / EVALUATIONS * budget, "flops": 1.0 * number, "seconds": 1.0 * number}
        lines.append({"kind": "step", "stage": 0, "rows": number, "loss": value, "memory": {}} | at)
        lines.append({"kind": "evaluation", "results": {"a": {"loss": value}}} | at)
    (place / "run" / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def standing(race: Race, folder: Path, invented: Callable[..., dict[str, Any]], done: int) -> tuple[Store, Course, list[Trial]]:
    """A race whose first trials are done, and two thirds of the way into all others."""
    store = Store(folder)
    trials = survey_course(race, store, {}).waiting
    for number, trial in enumerate(trials):
        values = curve(trial.arm, trial.seed)
        place = store.write(trial, {"cwd": ".", "metric": "auto"})
        if number < done:
            result = invented(values[-1], curve=values)
            result["curve"]["tokens"] = [(place + 1) / EVALUATIONS * 5120 for place in range(EVALUATIONS)]
            write_whole(place / "result.json", result)
        else:
            ledger(place, values[:16])
    return store, survey_course(race, store, {}), trials[done:]


def test_the_end_of_a_running_trial_is_inside_its_interval(
    make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    race = make_race("control: false")
    store, course, running = standing(race, tmp_path, invented, done=3)
    for trial in running:
        found = outlook(race, store, course, trial)
        assert found is not None and found["share"] == pytest.approx(16 / 24) and found["at"] == 5120
        assert found["value"] == pytest.approx(curve(trial.arm, trial.seed)[-1], rel=0.01)
        assert found["low"] <= curve(trial.arm, trial.seed)[-1] <= found["high"] and found["level"] == 0.9
        assert "earlier runs" in found["note"]


def test_it_is_said_and_drawn_and_changes_no_verdict(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    race = make_race("control: false\nearly_stopping: true")
    store, course, running = standing(race, tmp_path, invented, done=3)
    before, said = survey_course(race, store, {}), []
    assert len(tell_outlook(race, store, course, running, tmp_path / "race", said.append)) == len(running) == len(said)
    assert "67% done" in said[0] and "will end at about 2." in said[0]
    text = (tmp_path / "race" / RUNNING).read_text()
    assert 'data-plot="running"' in text and "<svg" in text and "No verdict reads" in text
    assert survey_course(race, store, {}) == before


def test_too_little_to_go_by_gives_the_reason(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    race = make_race("control: false")
    store, course, running = standing(race, tmp_path, invented, done=0)
    ledger(store.place(running[0]), curve("baseline", 0)[:3])
    found = outlook(race, store, course, running[0])
    assert found is not None and found["value"] is None and "too few" in found["note"]
    ledger(store.place(running[1]), [])
    assert outlook(race, store, course, running[1]) is None
    assert tell_outlook(race, store, course, running[1:2], tmp_path / "race", print) == [] and not (tmp_path / "race").exists()
