"""Continued pre-training on a domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, build


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("d_cpt")
    assert found.estimates == pytest.approx(designs["d_cpt"]["truth"], rel=2e-2)


def test_more_of_the_domain_never_hurts_it() -> None:
    law = build("d_cpt", {})
    theta = law.theta(
        {"E": 0.6, "A": 600.0, "B": 900.0, "C": 0.25, "alpha": 0.33, "beta": 0.36, "gamma": 0.6, "eta": 0.0, "epsilon": 0.05}
    )[None]
    share = np.linspace(0, 1, 11)
    loss = law.predict(theta, law.prepare({"params": np.full(11, 1e9), "tokens": np.full(11, 1e10), "share": share}))[0]
    assert (np.diff(loss) < 0).all()
    assert np.exp(loss[0]) == pytest.approx(0.6 + 600 * 1e9**-0.33 + 900 * 1e10**-0.36 + 0.25 * 0.05**-0.6, rel=1e-6)
