"""Best learning rate and batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, build


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("batch_lr")
    assert found.estimates == pytest.approx(designs["batch_lr"]["truth"], rel=2e-3)


def test_optimum_follows_the_law(recovered: Callable[..., Fit]) -> None:
    law, found = recovered("batch_lr").law, recovered("batch_lr", draws=8)
    lr, batch = law.optimum(found.theta[None], 1e9, 1e11)
    assert lr[0] == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307, rel=1e-3)
    assert batch[0] == pytest.approx(0.58 * 1e11**0.571, rel=1e-3)


def test_keeps_only_the_bowl() -> None:
    table = {
        "params": np.full(4, 1e8),
        "tokens": np.full(4, 1e9),
        "lr": np.array([1e-4, 2e-4, 4e-4, 8e-4]),
        "batch": np.full(4, 1e5),
        "loss": np.array([3.0, 2.9, 2.95, 5.0]),
    }
    assert build("batch_lr", table, {"within": 0.02}).rows(table).tolist() == [False, True, True, False]
