"""Steps against batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingot.scaling.coverage import coverage
from ingot.scaling.fit import Fit, build, fit


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("critical_batch")
    assert found.estimates == pytest.approx(designs["critical_batch"]["truth"], rel=2e-3)


def test_at_the_critical_batch_steps_and_examples_are_twice_the_fewest() -> None:
    law = build("critical_batch", {})
    theta = law.theta({"S_min": 5000.0, "B_crit": 1e6})[None]
    steps = np.exp(law.predict(theta, law.prepare({"batch": np.array([1e6, 1e12, 1e-3])}))[0])
    assert steps[0] == pytest.approx(2 * 5000)
    assert steps[1] == pytest.approx(5000, rel=1e-5)
    assert steps[0] * 1e6 == pytest.approx(2 * steps[2] * 1e-3, rel=1e-5)


def test_depends_on_the_loss_when_told_it() -> None:
    batch, loss = np.meshgrid(np.geomspace(1e4, 1e7, 8), np.linspace(2.5, 4.0, 5))
    steps = 2e5 * loss**-3.0 * (1 + 2e8 * loss**-4.76 / batch)
    found = fit(
        "critical_batch",
        {"batch": batch.ravel(), "target_loss": loss.ravel(), "steps": steps.ravel()},
        draws=0,
        interval="none",
        backtest=False,
    )
    assert found.estimates == pytest.approx({"S_min": 2e5, "B_crit": 2e8, "p": 3.0, "q": 4.76}, rel=1e-2)


def test_intervals_cover_with_target_losses() -> None:
    """500 data sets with 3 % of noise: 90 % intervals hold each coefficient in 85 % to 95 % of them."""
    batch, loss = np.meshgrid(np.geomspace(2e4, 2e7, 8), np.linspace(2.5, 4.0, 5))
    table = {"batch": batch.ravel(), "target_loss": loss.ravel()}
    found = coverage("critical_batch", table, {"S_min": 2e5, "B_crit": 2e8, "p": 3.0, "q": 4.76}, sigma=0.03)
    assert set(found["coverage"]) == {"S_min", "B_crit", "p", "q"}
    assert found["lowest"] >= 0.85 and found["highest"] <= 0.95 and found["all_starts_agree"] == 1.0
