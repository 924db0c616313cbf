"""Routed models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ingot.scaling.fit import Fit
from ingot.scaling.form._experts import saturated


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("moe")
    assert found.estimates == pytest.approx(designs["moe"]["truth"], rel=1e-2)


def test_experts_saturate_at_both_ends() -> None:
    assert saturated(1.0, 1.847, 314.478) == pytest.approx(1.847)
    assert saturated(1e12, 1.847, 314.478) == pytest.approx(314.478, rel=1e-6)
    assert 1.847 < saturated(8.0, 1.847, 314.478) < 8 + 1.847
