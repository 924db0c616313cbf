"""Dense and routed models together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, build


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("joint_moe")
    assert found.estimates == pytest.approx(designs["joint_moe"]["truth"], rel=2e-3)


def test_a_dense_model_follows_chinchilla() -> None:
    """At one expert E_hat is a constant, so what is left is E + A N^-alpha + B D^-beta."""
    law, plain = build("joint_moe", {}), build("chinchilla", {})
    values = {"c": 1.6, "a": 0.55, "b": 0.6, "alpha": -0.3, "beta": -0.35, "delta": -0.25, "omega": 0.05, "gamma": 0.02, "zeta": -0.01}
    e = np.log(1.847)
    alpha, beta = 0.3 - 0.02 * e, 0.35 + 0.01 * e
    same = {"E": 1.6, "A": 0.55 * np.exp(-0.25 * e) * 1e8**alpha, "B": 0.6 * np.exp(0.05 * e) * 1e10**beta, "alpha": alpha, "beta": beta}
    table = {"params": np.array([1e8, 3e9]), "tokens": np.array([2e9, 1e11]), "experts": np.ones(2)}
    first = law.predict(law.theta(values)[None], law.prepare(table))
    assert first == pytest.approx(plain.predict(plain.theta(same)[None], plain.prepare(table)), abs=1e-9)
