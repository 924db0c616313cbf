"""Looking again: what was shown is kept, later looks are judged more strictly, and all of them together stay honest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.race.course import survey_course
from ingot.race.looks import FURTHER, Look, first, following, looks_at, pair_keys, share, take
from ingot.race.simulate import repeated_looks
from ingot.race.spec import BASELINE, Race
from ingot.race.statistics import LEVEL
from ingot.race.trials import Store, write_whole
from ingot.race.verdict import judge

Make = Callable[..., Race]


def sequence(counts: tuple[int, ...], **more: Any) -> list[Look]:
    taken: list[Look] = []
    for count in counts:
        taken.append(following(taken, count, **more))
    return taken


def test_the_first_look_has_all_the_error_unless_more_are_planned() -> None:
    assert following([], 3) == first(3).now == Look(3, 0.05, 0.05)
    assert following([], 3, planned=2).level == first(3, 2).now.level == 0.025
    assert [share(sequence((3, 5, 8, 12)[:count]), 1) for count in (1, 2, 3)] == pytest.approx([FURTHER / 2, FURTHER / 4, FURTHER / 8])
    assert sum(look.error for look in sequence((4, 8), planned=2)) == pytest.approx(LEVEL)


@pytest.mark.parametrize("counts", [(3, 5, 8, 12), (4, 8), (8, 4)])
def test_a_look_adds_no_more_than_its_error(counts: tuple[int, ...]) -> None:
    """Student's tests of scipy on samples drawn here, one by one."""
    from scipy import stats

    draw = np.random.default_rng(11).standard_normal((40_000, max(counts)))
    quiet = np.ones(len(draw), bool)
    for look in sequence(counts, planned=1):
        significant = stats.ttest_1samp(draw[:, : look.seeds], 0, axis=1).pvalue <= look.level
        fresh = float((quiet & significant).mean())
        assert fresh == pytest.approx(look.error, abs=4 * np.sqrt(look.error / len(draw)) + 0.1 * look.error)
        quiet &= ~significant
    assert 1 - quiet.mean() <= LEVEL + FURTHER + 0.003


def test_levels_use_what_looks_have_in_common_but_never_more_than_five_percent() -> None:
    again = following(sequence((4,)), 8)
    assert again.error < again.level < 2.5 * again.error
    assert following(sequence((4,)), 8, contenders=3).level <= again.level
    assert following(sequence((3, 5, 8)), 4, planned=9).level <= LEVEL
    piloted = following([], 6, piloted=True)
    assert following([piloted], 9).level == following([piloted], 9).error, "another test earns no credit"


@pytest.mark.parametrize("contenders", [1, 3])
@pytest.mark.parametrize("planned", [1, 4])
def test_races_looked_at_four_times_are_wrong_in_six_percent_at_most(contenders: int, planned: int) -> None:
    looked = {"races": 1500, "seeds": (3, 5, 8, 12), "contenders": contenders, "shape": "normal", "seed": 5}
    assert repeated_looks(**looked, planned=planned)["false"] <= 0.06
    assert repeated_looks(**looked, corrected=False)["false"] > 0.08, "so that this test can fail"


def test_looks_that_were_planned_find_more() -> None:
    looked = {"races": 800, "seeds": (4, 8), "contenders": 3, "shape": "normal"}
    assert repeated_looks(**looked, planned=2)["found"] > repeated_looks(**looked, planned=1)["found"] + 0.05


def test_a_look_is_known_again_whatever_the_race_is_called(tmp_path: Path) -> None:
    one = take(tmp_path, {"a": "first", "b": "second"}, 4)
    assert one.before == () and one.now.level == LEVEL
    assert take(tmp_path, {"a": "first", "b": "second"}, 4) == one, "the same look, at the same level"
    two = take(tmp_path, {"renamed": "first"}, 8)
    assert two.before == (4,) and two.now.level < 0.02
    three = take(tmp_path, {"a": "first", "b": "second"}, 8)
    assert three.before == (4, 8) and three.now.error < two.now.error, "the arm seen most decides"
    assert take(tmp_path, {"other": "third"}, 8).before == ()
    assert take(tmp_path, {"a": "first", "b": "second"}, 4).now.level == LEVEL, "what was shown stays as it was shown"
    assert [look.seeds for look in looks_at(tmp_path, "first")] == [4, 8, 8]


def shown(race: Race, folder: Path, invented: Callable[..., dict[str, Any]], effect: float) -> dict[str, Any]:
    """The verdict as a race gives it, from invented results."""
    store = Store(folder)
    noise = [0.0, 0.004, -0.003, 0.002, -0.001, 0.003, -0.002, 0.001]
    while (course := survey_course(race, store, {})).waiting:
        for trial in course.waiting:
            value = 4.0 * (1 + (effect + noise[trial.seed % 8] if trial.arm == "other" else 0.0))
            write_whole(store.write(trial, {"cwd": ".", "metric": "auto"}) / "result.json", invented(value))
    keys = pair_keys(course.trials, BASELINE, race.contenders)
    return judge(race, store, course, notes=[], standing=take(folder, keys, course.seeds or 3, planned=race.section.looks))


def test_the_verdict_says_what_was_looked_at_before(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    alone = shown(make_race("seeds: 8\nmargin: 0.0001"), tmp_path / "a", invented, -0.003)
    assert alone["arms"]["other"]["verdict"] == "better" and alone["level"] == 0.05 and "95 % interval" in alone["sentence"]
    before = shown(make_race("seeds: 4\nmargin: 0.0001"), tmp_path / "b", invented, -0.003)
    assert before["arms"]["other"]["verdict"] == "not resolved" and before["looks"]["before"] == []
    after = shown(make_race("seeds: 8\nmargin: 0.0001"), tmp_path / "b", invented, -0.003)
    assert after["looks"]["before"] == [4] and after["level"] < 0.02 and after["arms"]["other"]["verdict"] == "not resolved"
    assert after["arms"]["other"]["effect"]["high"] > alone["arms"]["other"]["effect"]["high"], "the interval grows with the level"
    assert "after looks at 4 seeds" in after["sentence"] and "95 % interval" not in after["sentence"]
    assert any("looked at before, at 4 seeds" in note for note in after["notes"])
    large = shown(make_race("seeds: 8\nlooks: 2\nmargin: 0.0001"), tmp_path / "c", invented, -0.003)
    assert large["level"] == 0.025 and large["looks"]["planned"] == 2
