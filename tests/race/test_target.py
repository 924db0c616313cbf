"""Cost to target: interpolated, censored, and never better for the runs left out."""

from __future__ import annotations

import pytest

from ingot.race.target import cost_to_target, reach, survival_median

CURVE = {"tokens": [0, 100, 200, 300], "value": [6.0, 4.0, 3.0, 2.5]}


def test_reach_is_linear_between_evaluations() -> None:
    assert reach(CURVE, "tokens", 3.5) == (150.0, True)
    assert reach(CURVE, "tokens", 2.0) == (300, False)
    assert reach(CURVE, "tokens", 7.0) == (0, True)
    assert reach(CURVE, "flops", 3.5) is None
    assert reach({"tokens": [0, 1, 2], "value": [3.0, None, 1.0]}, "tokens", 2.0) == (1.0, True)


def test_the_median_counts_censored_runs() -> None:
    assert survival_median([(1, True), (2, True), (3, True)]) == 2
    assert survival_median([(1, True), (2, False), (3, False)]) is None
    assert survival_median([(1, False), (2, True), (3, True)]) == 2
    assert survival_median([]) is None


def test_ratios_need_every_run_to_get_there() -> None:
    base = {seed: (100.0 + seed, True) for seed in range(4)}
    fast = {seed: (cost / 2, True) for seed, (cost, _) in base.items()}
    found = cost_to_target(base, fast)
    assert found["ratio"] == pytest.approx(0.5) and found["low"] <= found["ratio"] <= found["high"]
    some = cost_to_target(base, fast | {0: (200.0, False)})
    assert some["ratio"] is None and some["reached"] == 3 and some["bound"] > 0.5
    assert cost_to_target(base | {0: (100.0, False)}, some and fast)["bound"] is None
