"""Kaplan's law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, build


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("kaplan")
    assert found.estimates == pytest.approx(designs["kaplan"]["truth"], rel=2e-3)


def test_limits_are_the_one_sided_laws() -> None:
    """With data without end, L = (N_c / N)^alpha_N (their Eq. 1.1); with a model without end, L = (D_c / D)^alpha_D (Eq. 1.2)."""
    law = build("kaplan", {})
    theta = law.theta({"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103})[None]
    at = law.prepare({"params": np.array([1e9, 1e30]), "tokens": np.array([1e30, 1e10])})
    assert np.exp(law.predict(theta, at)[0]) == pytest.approx([(6.4e13 / 1e9) ** 0.076, (1.8e13 / 1e10) ** 0.103], rel=1e-3)
