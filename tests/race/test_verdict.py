"""From invented results to verdicts, notes, the sentence and the claim."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.core.errors import UserError
from ingot.race.claim import BETTER, NOT, PART, SEEN, card, cards_page, read_cards, renewed, write_card, write_cards_page
from ingot.race.command_arm import told
from ingot.race.course import survey_course
from ingot.race.metric import metric_of
from ingot.race.page import render
from ingot.race.recommend import resolution_at
from ingot.race.spec import Race
from ingot.race.trials import Store, Trial, note, write_whole
from ingot.race.verdict import front, judge

Make = Callable[..., Race]
NOISE = [0.0, 0.004, -0.003, 0.002, -0.001, 0.003]
Outcome = Callable[[Trial], dict[str, Any]]


def judged(race: Race, folder: Path, outcome: Outcome) -> dict[str, Any]:
    """The verdict when every trial gives what `outcome` says."""
    store, seen = Store(folder), set()
    while (course := survey_course(race, store, {})).waiting:
        for trial in course.waiting:
            assert trial.key not in seen, "a trial was asked for again"
            write_whole(store.write(trial, {"cwd": str(folder), "metric": "auto"}) / "result.json", outcome(trial))
        seen |= {trial.key for trial in course.waiting}
    return judge(race, store, course, notes=[])


def loss(trial: Trial, effect: float = -0.03, best: float = 1.0) -> float:
    """A metric that depends on the seed, and lower for the arm `other`, whose best multiplier is `best`."""
    seed = trial.seed % 6
    factor = trial.factor / best if trial.arm == "other" else trial.factor
    return 4.0 * (1 + NOISE[seed]) * (1 + (effect + NOISE[-seed] / 4 if trial.arm == "other" else 0.0)) * (1 + 0.1 * abs(factor - 1))


def test_better_with_tuning_counted_apart(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    race = make_race("seeds: 5\ntuning: {trials: 4}")
    verdict = judged(race, tmp_path, lambda trial: invented(loss(trial, best=2.0)))
    other = verdict["arms"]["other"]
    assert other["verdict"] == "better" and other["effect"]["mean"] == pytest.approx(-0.03, abs=0.003) and other["effect"]["n"] == 5
    assert other["factor"] == 2.0 and verdict["arms"]["baseline"]["factor"] == 1.0
    assert other["tuning"]["trials"] == verdict["arms"]["baseline"]["tuning"]["trials"] == 4
    assert other["tuning"]["tokens"] == 4 * 5120 and other["spent"]["tokens"] == 5120
    assert (
        verdict["arms"]["control"]["verdict"] in ("no difference", "not resolved") and verdict["arms"]["control"]["tuning"]["trials"] == 0
    )
    assert (
        "other reaches" in verdict["sentence"]
        and "lower bits per byte" in verdict["sentence"]
        and "5 paired seeds" in verdict["sentence"]
        and "4 trials each" in verdict["sentence"]
    )
    assert verdict["pareto"]["flops"] == ["other"]


def test_a_failed_run_is_not_left_out(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    verdict = judged(
        make_race(),
        tmp_path,
        lambda trial: invented(
            None if trial.arm == "other" and trial.seed == 1 else loss(trial),
            status="failed" if trial.arm == "other" and trial.seed == 1 else "done",
            curve=[6.0, 5.0],
        ),
    )
    assert verdict["arms"]["other"]["verdict"] == "failed" and verdict["arms"]["other"]["effect"] is None
    assert any("seed 1 failed" in note for note in verdict["notes"]) and "failed in 1 of 3" in verdict["sentence"]


@pytest.mark.parametrize(("tokens", "expected"), [(5120 * 1.005, "better"), (5120 * 1.02, "off budget"), (5120 * 0.97, "off budget")])
def test_an_arm_off_the_budget_is_not_compared(
    make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path, tokens: float, expected: str
) -> None:
    verdict = judged(
        make_race("seeds: 5"), tmp_path, lambda trial: invented(loss(trial), tokens=tokens if trial.arm == "other" else 5120.0)
    )
    assert verdict["arms"]["other"]["verdict"] == expected
    assert any("off the stated budget" in note for note in verdict["notes"]) == (expected == "off budget")


def test_memory_is_a_cap(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    race = make_race("memory: 4 MB")
    verdict = judged(race, tmp_path, lambda trial: invented(loss(trial), memory=2e6 if trial.arm == "other" else 1e6))
    assert verdict["arms"]["other"]["verdict"] == "off budget" and not verdict["arms"]["baseline"]["off_budget"]


def test_seeds_follow_the_pilot(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    quiet = judged(make_race("seeds: auto"), tmp_path / "a", lambda trial: invented(loss(trial)))
    loud = judged(
        make_race("seeds: auto"),
        tmp_path / "b",
        lambda trial: invented(loss(trial) * (1 + 0.004 * (trial.arm == "other") * (trial.seed % 3))),
    )
    hopeless = judged(
        make_race("seeds: auto"),
        tmp_path / "c",
        lambda trial: invented(loss(trial) * (1 + 0.1 * (trial.arm == "other") * (trial.seed % 3))),
    )
    assert quiet["seeds"] == 3 and 3 < loud["seeds"] <= 12 and hopeless["seeds"] == 3
    assert hopeless["arms"]["other"]["verdict"] == "not resolved" and hopeless["recommend"]["seeds"] is None
    assert loud["chosen"]


def test_a_loser_stops_early_and_keeps_its_place(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    race = make_race("seeds: 6\nearly_stopping: true\ncontenders: {bad: {set: {stages: {0: {optimizer: {lr: 1e-5}}}}}}")
    verdict = judged(race, tmp_path, lambda trial: invented(loss(trial) * (1.3 if trial.arm == "bad" else 1.0)))
    assert verdict["arms"]["bad"]["stopped"] == 3 and verdict["arms"]["bad"]["runs"] == 3 and verdict["arms"]["bad"]["verdict"] == "worse"
    assert verdict["arms"]["other"]["runs"] == 6 and verdict["arms"]["other"]["verdict"] == "better"
    assert survey_course(race, Store(tmp_path), {}).expected == 6 + 6 + 6 + 3, "with the control, and without what the loser was spared"


def test_runs_of_several_versions_of_the_code_are_noted(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    def outcome(trial: Trial) -> dict[str, Any]:
        return invented(loss(trial)) | {"commit": "def" if trial.arm == "other" and trial.seed == 2 else "abc"}

    mixed = judged(make_race(), tmp_path / "mixed", outcome)
    assert mixed["commits"] == ["abc", "def"] and any("2 versions of the code (abc, def)" in note for note in mixed["notes"])
    alike = judged(make_race(), tmp_path / "alike", lambda trial: invented(loss(trial)))
    assert alike["commits"] == ["abc"] and not any("versions of the code" in note for note in alike["notes"])


def test_two_arms_with_one_recipe_share_their_runs(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    race = make_race("contenders: {same: {set: {model: {encoder: {feedforward: relu2}}}}}\ncontrol: false")
    verdict = judged(race, tmp_path, lambda trial: invented(4.0 + trial.seed / 100))
    assert verdict["arms"]["same"]["verdict"] == "no difference" and len(list((tmp_path / "trials").iterdir())) == 2 * 3
    assert "control" not in verdict["arms"]


def test_front() -> None:
    assert front({"a": (1.0, 5.0), "b": (2.0, 4.0), "c": (2.0, 5.0), "d": (None, 1.0)}) == ["a", "b"]


CLAIM = "seeds: 5\nclaim: {method: Other One, contender: other, paper: A 2020, says: it wins, parts: [{what: loss, wants: lower, by: BY}, {what: optimizer state, wants: lower, by: 0.5}]}"


@pytest.mark.parametrize(
    ("by", "effect", "memory", "expected"),
    [(0.01, -0.03, 4e5, SEEN), (0.1, -0.03, 4e5, PART), (0.01, -0.03, 1e6, PART), (0.01, 0.0, 1e6, NOT), (0.01, 0.03, 1e6, NOT)],
)
def test_claims(
    make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path, by: float, effect: float, memory: float, expected: str
) -> None:
    race = make_race(CLAIM.replace("BY", str(by)))
    verdict = judged(race, tmp_path, lambda trial: invented(loss(trial, effect), memory=memory if trial.arm == "other" else 1e6))
    found = card(verdict)
    assert found["verdict"] == expected
    assert found["pair"] == ["model.encoder.feedforward: 'gelu' -> 'relu2'"]
    write_whole(tmp_path / "verdict.json", verdict)
    path, _ = write_card(tmp_path, tmp_path / "cards")
    assert path.name == "other_one.yaml" and read_cards(tmp_path / "cards")[0]["verdict"] == expected
    page = write_cards_page(tmp_path / "cards").read_text()
    assert "Other One" in page and expected in page and "a &lt;cpu&gt;" in page and "<script" not in page


def test_equal_and_cost_claims(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    claim = "seeds: 5\nclaim: {method: m, contender: other, paper: p, says: s, parts: [{what: loss, wants: equal, by: 0.01}, {what: flops to target, wants: lower, by: 0.3}]}"
    verdict = judged(
        make_race(claim),
        tmp_path,
        lambda trial: invented(
            loss(trial, 0.0), flops=5e8 if trial.arm == "other" else 1e9, curve=[6.0, 4.0 * 1.01, 3.9, loss(trial, 0.0)]
        ),
    )
    parts = card(verdict)["parts"]
    assert [part["verdict"] for part in parts] == [SEEN, SEEN] and parts[1]["found"].startswith("0.5")


EQUAL = "seeds: 5\nclaim: {method: m, contender: other, paper: p, says: s, parts: [{what: loss, wants: equal, by: 0.01}]}\n"


def test_better_than_claimed_is_said_so_and_holds(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    found = card(judged(make_race(EQUAL), tmp_path, lambda trial: invented(loss(trial, -0.03))))
    assert found["parts"][0]["verdict"] == BETTER == "better than claimed" and found["verdict"] == SEEN
    assert "better than claimed" in cards_page([found])
    slight = card(judged(make_race(EQUAL), tmp_path / "b", lambda trial: invented(loss(trial, -0.005))))
    assert slight["parts"][0]["verdict"] == SEEN, "inside of the claim's own width"
    cost = EQUAL.replace("what: loss", "what: peak memory")
    less = judged(make_race(cost), tmp_path / "c", lambda trial: invented(loss(trial), memory=5e5 if trial.arm == "other" else 1e6))
    assert card(less)["parts"][0]["verdict"] == BETTER


@pytest.mark.parametrize(("trials", "best", "expected"), [(3, 2.0, PART), (4, 2.0, SEEN), (4, 8.0, PART), (1, 1.0, SEEN)])
def test_a_best_learning_rate_at_the_edge_caps_the_claim(
    make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path, trials: int, best: float, expected: str
) -> None:
    race = make_race(EQUAL.replace("wants: equal, by: 0.01", "wants: lower") + f"tuning: {{trials: {trials}}}")
    found = card(judged(race, tmp_path, lambda trial: invented(loss(trial, -0.5, best=best))))
    assert found["parts"][0]["verdict"] == SEEN and found["verdict"] == expected
    assert ("the edge of those tried" in found.get("capped", "")) == (expected == PART) == ("all parts hold, but" in cards_page([found]))


def test_cards_of_before_are_read(tmp_path: Path) -> None:
    for number, key in enumerate(("'on'", "on", "metric")):
        (tmp_path / f"{number}.yaml").write_text(
            f"method: m\nverdict: holds\npaper: p\nsays: s\nparts: []\neffect: {{{key}: loss, verdict: better}}\n"
        )
    assert [one["effect"]["metric"] for one in read_cards(tmp_path)] == ["loss"] * 3
    assert renewed({"method": "m"})["effect"] == {"metric": "auto"} and "loss: better" in cards_page(read_cards(tmp_path))


def test_a_control_that_cards_share_is_one(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    one = card(judged(make_race(EQUAL), tmp_path, lambda trial: invented(loss(trial))))
    shorter = card(judged(make_race(EQUAL.replace("seeds: 5", "seeds: 3")), tmp_path, lambda trial: invented(loss(trial))))
    apart = card(judged(make_race(EQUAL, "first_seed=50"), tmp_path / "b", lambda trial: invented(loss(trial))))
    assert one["effect"]["metric"] == "bits_per_byte" and "on" not in one["effect"]
    assert "2 cards here lean on 1 control," in cards_page([one, shorter])
    assert "3 cards here lean on 2 controls," in cards_page([one, shorter, apart])
    assert "counts once however many cards" in cards_page([])


def test_a_card_does_not_take_the_place_of_another_methods(
    make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    verdict = judged(make_race(EQUAL), tmp_path, lambda trial: invented(loss(trial)))
    for method in ("A b", "A b", "a-b"):
        write_whole(tmp_path / "verdict.json", verdict | {"claim": verdict["claim"] | {"method": method}})
        if method == "a-b":
            with pytest.raises(UserError, match=r"a_b\.yaml is the card of 'A b', not of 'a-b'"):
                write_card(tmp_path, tmp_path / "cards")
        else:
            write_card(tmp_path, tmp_path / "cards")
    assert [one["method"] for one in read_cards(tmp_path / "cards")] == ["A b"]


def test_no_claim_and_no_race(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no claim to judge"):
        card(judged(make_race(), tmp_path, lambda trial: invented(loss(trial))))
    with pytest.raises(UserError, match="no finished race"):
        write_card(tmp_path / "nowhere", tmp_path)
    assert "0 methods" in cards_page([])


def test_an_accuracy_is_judged_the_right_way_round(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """What the trials keep is the error, so tuning, words and verdict all read lower as better."""

    def outcome(trial: Trial) -> dict[str, Any]:
        accuracy = 0.9 - (0.05 + abs(NOISE[trial.seed % 6])) * (trial.arm == "other") - 0.01 * abs(trial.factor - 1)
        return invented(metric_of({"a": {"accuracy": accuracy}}, race.section.metric)) | {"metric": race.section.metric}

    race = make_race("seeds: 5\ntuning: {trials: 3}", "metric=accuracy")
    verdict = judged(race, tmp_path, outcome)
    assert verdict["arms"]["other"]["verdict"] == "worse" and verdict["arms"]["baseline"]["factor"] == 1.0
    assert verdict["arms"]["baseline"]["mean"] == pytest.approx(0.1)
    assert "higher error (1 − accuracy)" in verdict["sentence"]


def test_a_program_is_read_in_the_baselines_metric(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """One that tells only its loss is not compared with bits per byte; of one that tells both, the baseline's is taken."""

    def outcome(trial: Trial) -> dict[str, Any]:
        if trial.arm not in ("nats", "both"):
            return invented(2.0 + NOISE[trial.seed % 6]) | {"metric": "loss"} if losses else invented(2.0 + NOISE[trial.seed % 6])
        given = {"loss": 1.4} | ({"bits_per_byte": 1.0} if trial.arm == "both" else {})
        lines = [{"tokens": 5120, "flops": 1.0, "evaluation": {"a": given}, "at": 1.0}]
        return told(lines, metric="auto", seconds=2.0, peak=7) | {"status": "done", "reason": ""}

    more = "contenders: {nats: {command: a}, both: {command: b}}\ncontrol: false"
    losses = False
    arms = judged(make_race(more), tmp_path / "bits", outcome)["arms"]
    assert arms["nats"]["verdict"] == "failed" and "gave no bits_per_byte" in arms["nats"]["failed"][0][1]
    assert arms["both"]["verdict"] != "failed" and arms["both"]["mean"] == pytest.approx(1.0)
    losses = True
    verdict = judged(make_race(more), tmp_path / "nats", outcome)
    assert verdict["metric"] == "loss" and verdict["arms"]["both"]["mean"] == verdict["arms"]["nats"]["mean"] == pytest.approx(1.4)
    assert verdict["arms"]["both"]["curve"]["value"] == [pytest.approx(1.4)]


def test_a_recipe_in_another_metric_fails_with_a_reason(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    verdict = judged(make_race(), tmp_path, lambda trial: invented(loss(trial)) | ({"metric": "loss"} if trial.arm == "other" else {}))
    assert verdict["arms"]["other"]["verdict"] == "failed"
    assert any("it is measured in loss, the baseline in bits_per_byte" in note for note in verdict["notes"])


@pytest.mark.parametrize(("value", "said"), [(0.0, "only a number above 0"), (-1.0, "only a number above 0"), (None, "gave no loss")])
def test_a_number_without_a_log_is_a_failure_and_no_crash(
    make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path, value: float | None, said: str
) -> None:
    race = make_race("tuning: {trials: 3}\nearly_stopping: true", "metric=loss")
    curve = [6.0, 5.0, 4.0]
    verdict = judged(
        race,
        tmp_path,
        lambda trial: invented(value if trial.arm == "other" else loss(trial), curve=curve) | {"metric": "loss"},
    )
    assert verdict["arms"]["other"]["verdict"] == "failed" and said in verdict["arms"]["other"]["failed"][0][1]


def test_what_a_race_resolves_after_a_pilot_is_told_by_the_pilots_freedom(
    make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    def outcome(trial: Trial) -> dict[str, Any]:
        return invented(loss(trial) * (1 + 0.004 * (trial.arm == "other") * (trial.seed % 3)))

    verdict = judged(make_race("seeds: auto"), tmp_path, outcome)
    seeds, advice = verdict["seeds"], verdict["recommend"]
    assert seeds > 3 and advice["resolves"] == pytest.approx(resolution_at(seeds, advice["sd"], 3))
    assert advice["resolves"] > 1.2 * resolution_at(seeds, advice["sd"])
    assert advice["resolves"] <= 0.01, "the seeds that were chosen for it resolve it"


def test_a_budget_in_rows_is_told_as_spent(make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    verdict = judged(make_race("budget: 160 rows"), tmp_path, lambda trial: invented(loss(trial)))
    assert verdict["arms"]["other"]["spent"]["rows"] == 160 and "100.00 %" in render(verdict)


@pytest.mark.parametrize(("target", "said"), [("", "which every baseline run reaches"), ("target: 2.0", "which no baseline run reaches")])
def test_the_page_tells_who_reaches_the_target(
    make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path, target: str, said: str
) -> None:
    assert said in render(judged(make_race(target), tmp_path, lambda trial: invented(loss(trial))))


@pytest.mark.parametrize(("noise", "expected"), [(0.02, SEEN), (0.6, NOT)])
def test_a_wall_clock_claim_is_judged_over_pairs(
    make_race: Make, invented: Callable[..., dict[str, Any]], tmp_path: Path, noise: float, expected: str
) -> None:
    """Runs that take a tenth less on average, with little noise and with much."""
    race = make_race(EQUAL.replace("what: loss, wants: equal, by: 0.01", "what: wall-clock, wants: lower") + "control: false")
    store = Store(tmp_path)

    def outcome(trial: Trial) -> dict[str, Any]:
        note(store.place(trial), event="start", time=1.0, conduct="one")
        note(store.place(trial), event="end", time=2.0)
        swing = noise * (-1, 1, -1, 1, 0)[trial.seed % 5]
        return invented(loss(trial), seconds=2.0 * ((0.9 + swing) if trial.arm == "other" else 1.0))

    verdict = judged(race, tmp_path, outcome)
    found = card(verdict)["parts"][0]
    assert found["verdict"] == expected and " to " in found["found"]
    assert verdict["arms"]["other"]["paired"]["seconds"]["by_seed"]["4"] == 1.8
