"""Chinchilla's law, and its published refit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.scaling.fit import Fit, build, fit
from ingot.scaling.table import read, take


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("chinchilla")
    assert found.estimates == pytest.approx(designs["chinchilla"]["truth"], rel=2e-3)


def test_gives_the_published_refit(shared_data: Path) -> None:
    """Besiroglu et al. 2024, Table 1: estimates and standard errors of 240 of the 245 points (the five of highest loss left out)."""
    table = read(shared_data / "scaling" / "chinchilla_points.csv")
    table = take(table, table["loss"].argsort().argsort() < 240)
    found = fit("chinchilla", table, columns={"tokens": "flop/6/params"}, interval="bootstrap", draws=1000, backtest=False)
    published = {"A": (482.01, 124.58), "B": (2085.43, 1293.23), "E": (1.8172, 0.03), "alpha": (0.3478, 0.02), "beta": (0.3658, 0.02)}
    for name, (value, error) in published.items():
        assert abs(found.estimates[name] - value) < 0.1 * error, name
        low, high = found.intervals[name]
        assert low < value < high
    assert found.method["bootstrap"]["agree"] == 1.0


def test_delta_is_the_published_one() -> None:
    assert build("chinchilla", {}).delta == 1e-3
