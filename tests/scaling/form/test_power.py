"""A power law with a floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, fit


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("power")
    assert found.estimates == pytest.approx(designs["power"]["truth"], rel=2e-3)


def test_reads_the_column_it_is_told_to() -> None:
    flop = np.geomspace(1e15, 1e20, 12)
    found = fit("power", {"flop": flop, "loss": 2.0 + 300 * flop**-0.16}, knobs={"over": "flop"}, draws=0, interval="none", backtest=False)
    assert found.estimates["alpha"] == pytest.approx(0.16, rel=1e-3)
    assert found({"flop": 1e22})[0] == pytest.approx(2.0 + 300 * 1e22**-0.16, rel=1e-4)
