"""No false alarms on clean runs, no missed catastrophes, the same verdict from the same past."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ingot.train.anomaly import AnomalyGuard, BadRow, worst_rows


def clean_run(seed: int, steps: int = 2000) -> list[tuple[float, float]]:
    """A falling loss and a gradient norm that starts high and has a log-normal spread, as small language models show."""
    random = np.random.default_rng(seed)
    decay = 2.5 + 6.5 * np.exp(-np.arange(steps) / 150)
    loss = decay * (1 + 0.02 * random.standard_normal(steps))
    norm = (0.3 + 4 * np.exp(-np.arange(steps) / 80)) * np.exp(0.25 * random.standard_normal(steps))
    return list(zip(loss.tolist(), norm.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_clean_runs_raise_no_event(seed: int) -> None:
    guard = AnomalyGuard()
    assert [guard.judge(*values).event for values in clean_run(seed)] == [""] * 2000


@pytest.mark.parametrize("seed", range(4))
def test_heavy_tails_and_warmup_raise_no_event(seed: int) -> None:
    """A gradient norm with Student-t tails in its logarithm, rising tenfold through a learning-rate warm-up."""
    random = np.random.default_rng(seed)
    steps = 3000
    norm = np.minimum(1, (np.arange(steps) + 30) / 300) * np.exp(0.2 * random.standard_t(5, steps))
    guard = AnomalyGuard()
    assert not any(guard.judge(9 * 0.999**step, float(value)).event for step, value in enumerate(norm))


def test_spikes_are_named() -> None:
    guard = AnomalyGuard()
    for values in clean_run(0, 300):
        guard.judge(*values)
    verdict = guard.judge(9.0, 0.5)
    assert (verdict.action, verdict.event, verdict.applies) == ("skip", "spike", False)
    assert verdict.message.startswith("loss 9 is ") and "gradient norm" not in verdict.message
    assert guard.judge(3.0, 300.0).message.startswith("gradient norm 300 is ")
    assert guard.judge(0.01, 1e-6).action == "none"


@pytest.mark.parametrize(("policy", "applies"), [("log", True), ("skip", False), ("roll_back", False), ("stop", False)])
def test_what_is_not_finite_is_applied_only_under_log(policy: str, applies: bool) -> None:
    guard = AnomalyGuard(policy=policy)  # type: ignore[arg-type]
    for values in ((math.nan, 1.0), (1.0, math.inf), (-math.inf, math.nan)):
        verdict = guard.judge(*values)
        assert (verdict.action, verdict.event, verdict.applies) == (policy, "nonfinite", applies)
    assert "loss is nan" in AnomalyGuard().judge(math.nan, 1.0).message


def test_hiding_instability_has_a_limit() -> None:
    guard = AnomalyGuard(most=3)
    for _ in range(3):
        assert guard.judge(math.nan, 1.0).action == "skip"
    for _ in range(20):
        guard.judge(2.0, 1.0)
    verdict = guard.judge(math.nan, 1.0)
    assert verdict.action == "stop" and "instability hidden too often: 4 of the last 24" in verdict.message
    guard = AnomalyGuard(most=3, window=8)
    assert all(guard.judge(math.nan if step % 9 == 0 else 2.0, 1.0).action != "stop" for step in range(200))


def test_a_lasting_change_is_accepted() -> None:
    guard = AnomalyGuard(policy="log", window=32)
    for _ in range(100):
        guard.judge(1.0, 1.0)
    assert [guard.judge(3.0, 1.0).event for _ in range(40)][-10:] == [""] * 10


@pytest.mark.parametrize("empty", [0.0, -1.5])
def test_steps_that_score_nothing_make_no_spikes_of_others(empty: float) -> None:
    """Of few rows with few hidden tokens most hold none, and a loss of another kind may be negative; a spike among the others is one still."""
    guard = AnomalyGuard()
    for number, values in enumerate(clean_run(0, 1600)):
        assert guard.judge(*(values if number % 4 == 0 else (empty, 0.0))).event == ""
    assert guard.judge(30.0, 0.5).event == "spike"


def test_resumed_guard_decides_alike() -> None:
    values = clean_run(1, 200) + [(math.nan, 1.0), (40.0, 1.0)] + clean_run(2, 60)
    whole, first = AnomalyGuard(), AnomalyGuard()
    expected = [whole.judge(*item) for item in values]
    found = [first.judge(*item) for item in values[:201]]
    second = AnomalyGuard()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert found + [second.judge(*item) for item in values[201:]] == expected


def test_worst_rows() -> None:
    rows = [(5, 0, 1.0), (9, 1, math.nan), (2, 1, 7.0), (3, 0, math.inf), (4, 7, 7.0)]
    found = worst_rows(rows, ["books", "web"], 4)
    assert [row.row for row in found] == [3, 9, 2, 4]
    assert found[2] == BadRow(2, "web", 7.0) and found[3].source == "7"


def test_a_stage_of_another_kind_begins_without_a_past() -> None:
    guard = AnomalyGuard()
    for loss in (3.0, 3.1) * 40:
        guard.judge(loss, 1.0)
    assert guard.judge(9.0, 1.0).event == "spike"
    guard.begin()
    assert not any(guard.judge(loss, 4.0).event for loss in (9.0, 9.1) * 40)
