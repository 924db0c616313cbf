"""The multi-power law."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, build, fit
from ingot.scaling.table import read, rename, take, where


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("multi_power")
    assert found.estimates == pytest.approx(designs["multi_power"]["truth"], rel=1e-2)


SCHEDULES = ("cosine_24000", "constant_24000", "wsdcon_9")


@pytest.mark.parametrize("millions", [25, 100])
def test_predicts_schedules_it_has_not_seen(shared_data: Path, millions: int) -> None:
    """Luo et al. fit three schedules and predict the others: R2 of all of these at least 0.995."""
    table = where(read(shared_data / "scaling" / "lr_schedule_loss_curves.csv"), [f"model_millions={millions}"])
    table = rename(table, {"run": "schedule"})
    seen = np.isin(table["run"], SCHEDULES)
    found = fit("multi_power", take(table, seen), draws=0, interval="none", backtest=False)
    other = take(table, ~seen)
    off = found(other) - other["loss"]
    assert len(set(other["run"])) == 6
    assert 1 - (off**2).sum() / ((other["loss"] - other["loss"].mean()) ** 2).sum() >= 0.995


def test_a_constant_rate_only_follows_the_power_law_and_its_warm_up() -> None:
    law = build("multi_power", {}, {"warmup": 0})
    values = {"L_0": 2.6, "A": 0.6, "alpha": 0.45, "B": 400.0, "C": 2.0, "beta": 0.6, "gamma": 0.6}
    step = np.linspace(1000, 20000, 20)
    table = {"step": step, "lr": np.full(20, 3e-4)}
    loss = np.exp(law.predict(law.theta(values)[None], law.prepare(table))[0])
    rise = 400 * 3e-4 / 16 * sum(1 - (1 + 2 * (3e-4 * k / 16) ** -0.6 * 3e-4 * step) ** -0.6 for k in range(1, 17))
    assert loss == pytest.approx(2.6 + 0.6 * (3e-4 * step) ** -0.45 + rise, rel=1e-9)
