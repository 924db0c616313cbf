"""Average error from loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, build


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("average_error")
    assert found.estimates == pytest.approx(designs["average_error"]["truth"], rel=2e-3)


def test_error_rises_to_epsilon() -> None:
    law = build("average_error", {})
    theta = law.theta({"epsilon": 0.857, "k": 2.21, "gamma": 0.715})[None]
    error = law.predict(theta, {"loss": np.array([2.0, 3.0, 60.0])})[0]
    assert error == pytest.approx([0.857 - 2.21 * np.exp(-1.43), 0.857 - 2.21 * np.exp(-2.145), 0.857], abs=1e-9)
