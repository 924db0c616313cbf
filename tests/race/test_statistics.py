"""Effects and verdicts: exact on known numbers, honest in simulation at 3, 5 and 10 seeds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ingot.race.recommend import resolution_at, seeds_for
from ingot.race.simulate import SHAPES, false_verdicts, power_at_recommended, runs, stopping_bias
from ingot.race.statistics import differences, effects, holm, interval, p_value, sign_flip, word
from ingot.race.stopping import stopped

RACES = 2000


def test_interval_and_p_are_those_of_scipy() -> None:
    from scipy import stats

    values = [-0.02, -0.01, -0.03, -0.015]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert interval(values, 0.05) == pytest.approx((low, high))
    assert p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_sign_flip_is_the_exact_permutation_test() -> None:
    from scipy import stats

    values = [0.3, -0.1, 0.5, 0.2, 0.4, 0.1]
    exact = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=10**6, vectorized=False).pvalue
    assert sign_flip(values) == pytest.approx(exact)
    assert sign_flip([1.0] * 6) == 2 / 64


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}, 3) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.01}, 5) == pytest.approx({"a": 0.05})  # four others were there and have dropped out


def test_differences_pair_by_seed_and_leave_out_what_has_no_partner() -> None:
    assert differences({1: 2.0, 2: 4.0, 3: 1.0}, {2: 2.0, 1: 2.0}) == pytest.approx([0.0, -math.log(2)])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-0.02, -0.021, -0.019], "better"),
        ([0.02, 0.021, 0.019], "worse"),
        ([-0.001, 0.001, 0.0005, -0.0004, 0.0], "no difference"),
        ([-0.03, 0.02, 0.01], "not resolved"),
        ([-0.02], "not resolved"),
        ([0.0, 0.0, 0.0], "no difference"),
        ([-0.0011, -0.001, -0.0009, -0.001], "no difference"),  # real, but smaller than what matters
    ],
)
def test_words(values: list[float], expected: str) -> None:
    assert word(effects({"it": values})["it"], margin=0.005) == expected


def test_many_contenders_widen_every_interval() -> None:
    values = [-0.02, -0.021, -0.019, -0.025]
    alone = effects({"it": values})["it"]
    among = effects({"it": values, **{str(index): [0.01, -0.01, 0.0, 0.02] for index in range(4)}})["it"]
    assert among.high > alone.high and among.low < alone.low and among.adjusted == pytest.approx(5 * alone.p)


@pytest.mark.parametrize("contenders", [1, 3])
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("shape", SHAPES)
def test_races_without_an_effect_give_at_most_six_percent_false_verdicts(shape: str, seeds: int, contenders: int) -> None:
    found = false_verdicts(races=RACES, seeds=seeds, contenders=contenders, shape=shape, seed=seeds)
    assert found["false"] <= 0.06, found
    assert found.get("not resolved", 0) + found.get("no difference", 0) >= 0.94


def test_a_percentile_bootstrap_of_three_pairs_would_not_do() -> None:
    draw, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        logs = runs(draw, "normal", 2, 3, shared=0.01, own=0.004)
        means = draw.choice(logs[1] - logs[0], (500, 3)).mean(1)
        wrong += not np.quantile(means, 0.025) <= 0 <= np.quantile(means, 0.975)
    assert wrong / 400 > 0.15


@pytest.mark.parametrize("pilot", [3, 5])
@pytest.mark.parametrize("own", [0.003, 0.005])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_planted_percent_is_found_at_the_recommended_seeds(shape: str, own: float, pilot: int) -> None:
    found = power_at_recommended(races=600, pilot=pilot, shape=shape, own=own, seed=pilot)
    assert found["found"] >= 0.8, found
    assert found["all_false"] <= 0.06, found
    assert found["mean_seeds"] <= 12 and found["agreed"] > 0.5


def test_recommendations() -> None:
    assert seeds_for(0.01, 0.001, 3) == 3
    assert seeds_for(0.01, 0.05, 5) is None  # more than 12
    assert seeds_for(0.01, math.nan, 1) is None and seeds_for(0.01, 0.004, 1) is None
    few, many = seeds_for(0.01, 0.006, 5), seeds_for(0.01, 0.006, 5, contenders=3)
    assert few is not None and many is not None and many > few
    assert resolution_at(10, 0.004) < resolution_at(3, 0.004) and math.isinf(resolution_at(1, 0.004))


def test_stopping_takes_out_losers_only_and_does_not_favor_survivors() -> None:
    assert stopped([0.1, 0.101, 0.102], 6, contenders=1) == 3
    assert stopped([-0.1, -0.101, -0.102, -0.1], 6, contenders=1) is None
    assert stopped([0.1, 0.101], 6, contenders=1) is None
    assert stopped([0.1, 0.101, 0.102], 3, contenders=1) is None  # the last seed is no look
    found = stopping_bias(races=1000, seeds=6, effects_true=[0.0, 0.03, 0.0], seed=1)
    assert found["false"] <= 0.06
    assert found["stopped"][1] > 0.4 and max(found["stopped"][0], found["stopped"][2]) < 0.01
    assert max(abs(found["bias"][0]), abs(found["bias"][2])) < 0.0005  # a twentieth of a percent, in log loss


def test_what_was_measured_at_length_keeps_the_promise(repository: Path) -> None:
    found = json.loads((repository / "benchmarks" / "results" / "race_statistics.json").read_text())
    assert found["races"] >= 2000 and found["worst_false"] <= 0.06 and found["worst_power"] >= 0.8
    assert found["worst_false_after_looks"] <= 0.06
    assert {one["seeds"] for one in found["without_effect"]} == {3, 5, 10}
    assert found["percentile_bootstrap_false"]["3"] > 0.15
    assert found["real_races_without_effect"]["races"] >= 20 and found["real_races_without_effect"]["false"] <= 3
