"""The annealing law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, build


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("annealing")
    assert found.estimates == pytest.approx(designs["annealing"]["truth"], rel=2e-3)


def test_areas_of_a_step_down() -> None:
    """At a constant rate S_1 grows with it and S_2 is zero; after a drop, S_2 tends to drop / (1 - lambda)."""
    law = build("annealing", {}, {"memory": 0.99, "warmup": 0})
    step = np.arange(0.0, 40001.0, 10.0)
    x = law.prepare({"step": step, "lr": np.where(step < 5000, 3e-4, 1e-4)})
    before = step < 5000
    assert np.exp(x["log_sum"][before][1:]) == pytest.approx(3e-4 * step[before][1:])
    assert (x["annealed"][before] == 0).all()
    assert x["annealed"][-1] == pytest.approx(2e-4 / (1 - 0.99), rel=1e-6)
