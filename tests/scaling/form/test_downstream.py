"""Accuracy from loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, fit


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("downstream")
    assert found.estimates == pytest.approx(designs["downstream"]["truth"], rel=2e-3)


def test_chance_can_be_given(simulate: Callable[..., dict[str, np.ndarray]]) -> None:
    found = fit("downstream", simulate("downstream", 0.005), fixed={"floor": 0.25}, draws=0, backtest=False)
    assert found.estimates["floor"] == 0.25 and found.intervals["floor"] == (0.25, 0.25)
    assert found({"loss": 50.0})[0] == pytest.approx(0.25)
    assert found({"loss": 0.0})[0] == pytest.approx(found.estimates["ceiling"], abs=1e-3)
