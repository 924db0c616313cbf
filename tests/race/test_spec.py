"""The race file: everything wrong with it at once, and every arm's recipe as it should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ingot.core.errors import UserError
from ingot.core.quantities import parse_quantity
from ingot.race.arms import check_arms, coarse_budgets, final_factor, section_of, stage_shares, trial_tree
from ingot.race.course import survey_course
from ingot.race.spec import Race, Tuning, tuned_knobs
from ingot.race.trials import Store

Make = Callable[..., Race]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("budget: 20 steps", "wants tokens, FLOPs, seconds or rows"),
        ("budget: 0 tokens", "above 0"),
        ("baseline: {recipe: null, command: ./x}", "wants a recipe"),
        ("contenders: {other: {set: {model: {}}}, control: {command: ./x}}", "names an arm"),
        ("contenders: {other: {set: {}, about: same}}", None),
        ("contenders: {theirs: {command: ./x, recipe: base.yaml}}", "takes no recipe"),
        ("contenders: {empty: {about: nothing}}", "is the baseline itself"),
        ("tuning: {trials: 3, step: 0.5}", "a step above 1"),
        ("tuning: {search: optuna}", "more than 1"),
        ("seeds: auto\npilot: 2", "at least 3"),
        ("sedes: 3", "Did you mean 'seeds'"),
        ('contenders: {theirs: {command: "./x \'y"}}', "cannot be split into words"),
        ("claim: {method: m, contender: nobody, paper: p, says: s, parts: []}", "no contender is named"),
    ],
)
def test_what_is_wrong_is_said(make_race: Make, more: str, said: str | None) -> None:
    if said is None:
        make_race(more)
        return
    with pytest.raises(UserError) as error:
        make_race(more)
    assert said in str(error.value)


def test_an_arm_that_is_wrong_is_refused_before_anything_runs_with_all_problems(make_race: Make) -> None:
    race = make_race("contenders: {bad: {set: {model: {encoder: {feedforward: reluu}}}}, worse: {set: {stages: {0: {batch: many}}}}}")
    with pytest.raises(UserError) as error:
        check_arms(race)
    assert "bad: model.encoder.feedforward" in str(error.value) and "worse: stages.0.batch" in str(error.value)


def test_trials_differ_by_what_the_arm_changes_alone(make_race: Make) -> None:
    race = make_race()
    base, other = (trial_tree(race, arm, seed=3) for arm in ("baseline", "other"))
    assert base["seed"] == other["seed"] == 3
    assert other["model"]["encoder"].pop("feedforward") == "relu2" and base["model"]["encoder"].pop("feedforward") == "gelu"
    assert base == other
    assert base["stages"][0]["budget"] == "5120 tokens" and base["evaluate"]["every"] == "25%"


def test_where_and_how_fast_a_trial_runs_is_the_baselines(make_race: Make, tmp_path: Path) -> None:
    """What a contender's own recipe says of the machine goes, also where the baseline's says nothing; what its arm sets stays."""
    make_race()
    (tmp_path / "own.yaml").write_text((tmp_path / "base.yaml").read_text() + "layout: single\nmemory: 1 GB\n")
    race = make_race("contenders: {own: {recipe: own.yaml, set: {device: cpu}}}")
    base, own = (trial_tree(race, arm, seed=0) for arm in ("baseline", "own"))
    assert not {"layout", "memory", "device"} & base.keys() and own == base | {"device": "cpu"}


def test_an_edited_script_is_another_trial(make_race: Make, tmp_path: Path) -> None:
    """A program is known by the files among its command's words, and by those alone."""

    def known() -> tuple[str, str]:
        race = make_race("contenders: {theirs: {command: python train.py --rate 1}}")
        return survey_course(race, Store(tmp_path), {}).trials["theirs"][0].key, race.identity

    missing = known()
    (tmp_path / "train.py").write_text("print(1)")
    first = known()
    (tmp_path / "other.py").touch()
    assert known() == first
    (tmp_path / "train.py").write_text("print(2)")
    assert all(len(set(keys)) == 3 for keys in zip(missing, first, known()))


def test_the_multiplier_acts_on_every_learning_rate_or_on_the_knobs_named(make_race: Make) -> None:
    muon = (
        "contenders: {muon: {set: {stages: {0: {optimizer: {name: muon, lr: 0.02, rest: {name: adamw, lr: 0.004}}}}}}}\ntuning: {trials: 3}"
    )
    race = make_race(muon)
    optimizer = trial_tree(race, "muon", seed=0, factor=0.5)["stages"][0]["optimizer"]
    assert (optimizer["lr"], optimizer["rest"]["lr"]) == (0.01, 0.002)
    named = make_race(muon + "\n", "tuning.knobs=[stages.0.optimizer.lr]")
    optimizer = trial_tree(named, "muon", seed=0, factor=0.5)["stages"][0]["optimizer"]
    assert (optimizer["lr"], optimizer["rest"]["lr"]) == (0.01, 0.004)
    assert trial_tree(race, "baseline", seed=0, factor=2.0)["stages"][0]["optimizer"]["lr"] == 0.02
    assert tuned_knobs({"stages": [{"optimizer": {"lr": "x"}}]}, []) == []
    with pytest.raises(UserError, match="is no number"):
        trial_tree(make_race(muon, "tuning.knobs=[model.nothing]"), "muon", seed=0, factor=0.5)


TWO = "contenders: {two: {set: {stages: [{budget: 2 steps, batch: 256 tokens, optimizer: {name: adamw, lr: 0.01}}, {budget: 6 steps, batch: 256 tokens, optimizer: {name: adamw, lr: 0.01}, schedule: {lr: {name: linear, final: 0}}}]}}}"


def test_the_budget_covers_all_stages(make_race: Make) -> None:
    race = make_race(TWO)
    assert stage_shares(race.entrants["two"], parse_quantity("8 steps")) == [0.25, 0.75]
    budgets = [stage["budget"] for stage in trial_tree(race, "two", seed=0)["stages"]]
    assert budgets == ["1280 tokens", "3840 tokens"]
    stated = make_race(TWO.replace("two: {", "two: {shares: [0.5, 0.5], "))
    assert [stage["budget"] for stage in trial_tree(stated, "two", seed=0)["stages"]] == ["2560 tokens", "2560 tokens"]
    with pytest.raises(UserError, match="2 shares"):
        trial_tree(make_race(TWO.replace("two: {", "two: {shares: [0.5], ")), "two", seed=0)
    with pytest.raises(UserError, match="different units"):
        trial_tree(make_race(TWO.replace("2 steps", "2k tokens")), "two", seed=0)


def test_a_budget_that_whole_steps_miss_is_refused(make_race: Make) -> None:
    with pytest.raises(UserError, match=r"more than 1 % off"):
        check_arms(make_race("budget: 5000 tokens\ncontenders: {other: {set: {stages: {0: {batch: 384 tokens}}}}}"))
    assert check_arms(make_race()) == []


@pytest.mark.parametrize(
    ("budget", "step", "refused"),
    [
        ("1e9 flops", {"flops": 3e8, "seconds": 1.0}, True),  # 3 steps: 10 % short
        ("1e9 flops", {"flops": 3.3e8, "seconds": 1.0}, False),  # 3 steps: 1 % short
        ("1e9 flops", {"flops": 1e6, "seconds": 9.0}, False),
        ("60 s", {"flops": 1e6, "seconds": 1.5}, True),  # half a step is 1.25 %
        ("60 s", {"flops": 1e6, "seconds": 1.0}, False),
        ("5120 tokens", {"flops": 1e12, "seconds": 100.0}, False),  # counted elsewhere
    ],
)
def test_budgets_that_are_coarser_than_their_steps(make_race: Make, budget: str, step: dict[str, float], refused: bool) -> None:
    problems = coarse_budgets(make_race(f"budget: {budget}"), {"baseline": [step], "other": [step]})
    assert [problem.where for problem in problems] == (["baseline: budget", "other: budget"] if refused else [])
    assert all("more than 1 %" in problem.message for problem in problems)


def test_learning_rates_are_tuned_with_four_trials_when_nothing_is_said() -> None:
    assert Tuning().trials == 4


def test_a_schedule_that_does_not_decay_is_noted(make_race: Make) -> None:
    race = make_race("contenders: {flat: {set: {stages: {0: {schedule: {lr: {name: constant}}}}}}}")
    assert final_factor(section_of(race, "baseline", seed=0)) == pytest.approx(0, abs=1e-6)
    assert any("flat: the learning rate ends at 100%" in note for note in check_arms(race))


def test_every_shipped_race_and_its_tiny_twin_passes(repository, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.race.spec import read_race

    monkeypatch.chdir(repository)
    paths = sorted((repository / "races").glob("*.yaml"))
    assert len(paths) >= 6
    for path in paths:
        for tiny in (False, True):
            race = read_race(path, tiny=tiny)
            check_arms(race)
            assert race.section.claim is not None and race.section.question


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("auto", "auto"),
        ("loss", "loss"),
        ("forecast.mse", "forecast.mse"),
        ("wer.cer", "wer.cer"),
        ("loss_depth_2_share_0.5", "loss_depth_2_share_0.5"),
        ("accuracy", "1 - accuracy"),
        ("knn.accuracy", "1 - knn.accuracy"),
        ("1 - knn.accuracy", "1 - knn.accuracy"),
        ("retrieval.forward_R@1", "1 - retrieval.forward_R@1"),
    ],
)
def test_what_is_better_higher_is_raced_as_its_error(make_race: Make, metric: str, name: str) -> None:
    assert make_race("", f"metric={metric}").section.metric == name


@pytest.mark.parametrize("metric", ["bits_per_bite", "health.rank", "los", "1 - loss", "units"])
def test_a_metric_whose_better_side_is_not_known_is_refused(make_race: Make, metric: str) -> None:
    with pytest.raises(UserError, match=r"not known whether '.+' is better lower or higher"):
        make_race("", f"metric={metric}")
