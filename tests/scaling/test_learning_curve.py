"""How a running job ends, where the end is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.scaling import extrapolate
from ingot.scaling.table import read, where


def curve(seed: int = 0, last: int = 4000, noise: float = 0.005) -> tuple[np.ndarray, np.ndarray]:
    step = np.arange(20.0, last + 1, 20)
    return step, (2.5 + 12 * (step + 60) ** -0.4) * np.exp(noise * np.random.default_rng(seed).normal(size=len(step)))


def test_a_known_curve_is_inside_its_interval() -> None:
    """2.5 + 12 (x + 60)^-0.4 at twice the way."""
    step, loss = curve(last=2000)
    answer = extrapolate(step, loss, 4000)
    truth = 2.5 + 12 * 4060**-0.4
    assert answer.low < truth < answer.high and answer.value == pytest.approx(truth, rel=0.01)
    assert answer.past["source"] == "this run" and "off by" in answer.past["note"] and answer.reach == pytest.approx(2)
    assert sum(answer.weights.values()) == pytest.approx(1)


def test_earlier_runs_teach_what_the_end_of_the_schedule_does() -> None:
    """All runs fall by 4 % in their last quarter, of which half a run tells nothing."""

    def decayed(seed: int) -> tuple[np.ndarray, np.ndarray]:
        step, loss = curve(seed)
        return step, loss * np.where(step > 3000, 1 - 0.04 * (step - 3000) / 1000, 1.0)

    step, loss = decayed(0)
    half = step <= 2000
    alone, taught = (extrapolate(step[half], loss[half], 4000, earlier=earlier) for earlier in ((), [decayed(1), decayed(2), decayed(3)]))
    end = 0.96 * (2.5 + 12 * 4060**-0.4)
    assert abs(taught.value / end - 1) < 0.006 < abs(alone.value / end - 1)
    assert taught.past["source"] == "earlier runs" and taught.past["shift"] > 0.02 and taught.low < end < taught.high


@pytest.mark.parametrize(
    ("points", "at", "message"), [(5, 8000, "too few"), (200, 3000, "after the last"), (200, 4_000_000, "nothing tells how wrong")]
)
def test_refuses(points: int, at: float, message: str) -> None:
    step, loss = curve()
    with pytest.raises(UserError, match=message):
        extrapolate(step[:points], loss[:points], at)


def test_real_curves(shared_data: Path) -> None:
    """A third of a constant-rate run, and half a cosine, of the published curves: within 1 %, and inside the interval."""
    table = read(shared_data / "scaling" / "lr_schedule_loss_curves.csv")
    for run, cut in (("constant_72000", 24000), ("cosine_24000", 12000)):
        rows = where(table, ["model_millions=25", f"schedule={run}"])
        before = rows["step"] <= cut
        answer = extrapolate(rows["step"][before], rows["loss"][before], float(rows["step"][-1]))
        end = float(rows["loss"][-8:].mean())
        assert answer.value == pytest.approx(end, rel=0.01) and answer.low < end < answer.high
