"""Which trials ran side by side, and what becomes of wall-clock where they did not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.race.claim import NOT, card
from ingot.race.clock import processor_seconds, span, together
from ingot.race.course import survey_course
from ingot.race.spec import Race
from ingot.race.trials import Store, Trial, note, write_whole
from ingot.race.verdict import judge

Make = Callable[..., Race]


def entries(*events: tuple[str, float], **more: Any) -> list[dict[str, Any]]:
    return [{"event": event, "time": at} | (more if event == "start" else {}) for event, at in events]


def test_a_span_is_of_a_trial_that_ran_in_one_go() -> None:
    whole = span(entries(("start", 1), ("end", 3), conduct="a", host="h"))
    assert whole is not None and (whole.began, whole.ended, whole.conduct, whole.host) == (1, 3, "a", "h")
    assert span(entries(("start", 1), ("start", 2), ("resumed", 2), ("end", 3))) is None
    assert span(entries(("start", 1), ("start", 5), ("end", 9))) == span(entries(("start", 5), ("end", 9))), "killed before it was saved"
    assert span(entries(("start", 1))) is None and span([]) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ((0, 10, "a"), (500, 510, "a"), True),  # one conduct
        ((0, 10, "a"), (5, 15, "b"), False),  # two races at once
        ((0, 10, None), (5, 15, None), True),  # older trials that overlap
        ((0, 10, None), (12, 22, None), True),  # or follow each other
        ((0, 10, None), (300, 310, None), False),
        ((0, 10, "a"), (5, 15, None), False),
    ],
)
def test_together(ours: tuple[Any, ...], theirs: tuple[Any, ...], expected: bool) -> None:
    spans = [span(entries(("start", begin), ("end", end), conduct=conduct)) for begin, end, conduct in (ours, theirs)]
    assert together(*spans) is together(*reversed(spans)) is expected
    assert not together(spans[0], None)


def test_machines_are_told_apart() -> None:
    one, two = (span(entries(("start", 0), ("end", 9), conduct="a", host=host)) for host in "xy")
    assert not together(one, two)


def test_processor_time_counts_work_and_not_waiting() -> None:
    before, began = processor_seconds(), time.process_time()
    time.sleep(0.3)
    while time.process_time() - began < 0.2:
        pass
    assert 0.15 < processor_seconds() - before < 0.29


CLAIM = "seeds: 3\nclaim: {method: M, contender: other, paper: P, says: s, parts: [{what: wall-clock, wants: lower}]}"


def judged(
    race: Race, folder: Path, invented: Callable[..., dict[str, Any]], conduct_of: Callable[[Trial], str], processor: float | None
) -> dict[str, Any]:
    """Runs of `other` take half of the wall-clock; in processor time they take as much as `processor` says, the baseline's 2."""
    store = Store(folder)
    while (course := survey_course(race, store, {})).waiting:
        for trial in course.waiting:
            other = trial.arm == "other"
            place = store.write(trial, {"cwd": ".", "metric": "auto"})
            note(place, event="start", time=1.0, conduct=conduct_of(trial), host="h")
            note(place, event="end", time=2.0)
            found = invented(4.0 - 0.1 * other + trial.seed % 3 / 100, seconds=1.0 if other else 2.0)
            if processor is not None:
                found["spent"]["cpu_seconds"] = processor if other else 2.0
            write_whole(place / "result.json", found)
    return judge(race, store, course, notes=[])


def test_side_by_side_wall_clock_is_compared(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    verdict = judged(make_race(CLAIM), tmp_path, invented, lambda trial: "one", None)
    assert verdict["arms"]["other"]["side_by_side"] and verdict["pareto"]["seconds"] == ["other"]
    assert verdict["arms"]["other"]["to_target"]["seconds"]["runs"] == 3
    assert any("0.50 times the wall-clock" in note for note in verdict["notes"])
    assert card(verdict)["parts"][0]["found"].startswith("0.5 times") and verdict["arms"]["other"]["spent"]["cpu_seconds"] is None


def test_a_baseline_from_another_day_is_not_compared_in_seconds(
    make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    verdict = judged(make_race(CLAIM), tmp_path, invented, lambda trial: "today" if trial.arm == "other" else "then", 3.0)
    other = verdict["arms"]["other"]
    assert not other["side_by_side"] and verdict["pareto"]["seconds"] == [] and other["to_target"]["seconds"]["runs"] == 0
    assert other["to_target"]["reference_seconds"]["runs"] == 3 and verdict["pareto"]["reference_seconds"]
    assert any("wall-clock is not compared" in note for note in verdict["notes"])
    assert any("1.50 times the processor time" in note for note in verdict["notes"]), "which load does not change"
    part = card(verdict)["parts"][0]
    assert part["verdict"] == NOT and "not comparable" in part["found"]


def test_one_seed_from_another_day_is_enough(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    verdict = judged(
        make_race(CLAIM), tmp_path, invented, lambda trial: "then" if trial.arm == "other" and trial.seed == 2 else "today", None
    )
    assert not verdict["arms"]["other"]["side_by_side"] and verdict["arms"]["control"]["side_by_side"]
