"""Repeated data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, build


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("data_constrained")
    assert found.estimates == pytest.approx(designs["data_constrained"]["truth"], rel=2e-3)


def test_without_repetition_it_is_chinchilla() -> None:
    law, plain = build("data_constrained", {}, {"excess_parameters": False}), build("chinchilla", {})
    base = {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353}
    table = {"params": np.array([1e8, 1e9]), "tokens": np.array([1e9, 1e11]), "unique_tokens": np.array([1e9, 1e11])}
    first = law.predict(law.theta(base | {"R_D": 15.39})[None], law.prepare(table))
    assert first == pytest.approx(plain.predict(plain.theta(base)[None], plain.prepare(table)), abs=1e-12)


def test_four_epochs_are_nearly_as_good_as_new_data() -> None:
    """The paper's headline: at R_D* 15.39, four epochs are worth 3.7 times the unique data, forty less than 16 times."""
    law = build("data_constrained", {}, {"excess_parameters": False})
    theta = law.theta({"E": 1e-3, "A": 1e-9, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_D": 15.39})[None]
    epochs = np.array([1.0, 4.0, 40.0])
    loss = (
        np.exp(law.predict(theta, law.prepare({"params": np.full(3, 1e9), "tokens": 1e9 * epochs, "unique_tokens": np.full(3, 1e9)}))[0])
        - 1e-3
    )
    worth = (loss / loss[0]) ** (-1 / 0.353)
    assert worth[1] == pytest.approx(1 + 15.39 * (1 - np.exp(-3 / 15.39)), rel=1e-3)
    assert 3.6 < worth[1] < 3.8 and 14 < worth[2] < 16
