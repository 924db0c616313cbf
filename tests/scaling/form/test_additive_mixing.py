"""Mixtures of training domains by powers of their shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.scaling.fit import Fit, build, compare, fit
from ingot.scaling.table import read, take, where


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("additive_mixing")
    assert found.estimates == pytest.approx(designs["additive_mixing"]["truth"], rel=5e-3)


def test_a_domain_that_is_left_out_counts_nothing() -> None:
    """E + 1 / (w_a 1^gamma) at a share of one; the slope there is finite too."""
    table = {"mix_a": np.array([1.0, 0.5]), "mix_b": np.array([0.0, 0.5])}
    law = build("additive_mixing", table, {"exponents": "shared"})
    theta = law.theta({"E": 1.5, "w_a": 2.0, "w_b": 4.0, "gamma": 0.5})
    value, slope = law.gradient(theta[None], law.prepare(table))
    assert np.exp(value[0]) == pytest.approx([1.5 + 1 / 2.0, 1.5 + 1 / (6 * 0.5**0.5)])
    assert np.isfinite(slope).all() and slope[0, 2, 0] == 0


def test_one_exponent_is_that_of_each_made_equal() -> None:
    rng = np.random.default_rng(0)
    table = dict(zip(("mix_a", "mix_b", "mix_c"), rng.dirichlet((1.0, 1.0, 1.0), 12).T))
    weights = {"E": 1.2, "w_a": 0.5, "w_b": 0.7, "w_c": 1.1}
    one, each = (build("additive_mixing", table, {"exponents": exponents}) for exponents in ("shared", "each"))
    found = [
        law.predict(law.theta(weights | {f"gamma{end}": 0.4 for end in ("", "_a", "_b", "_c")})[None], law.prepare(table))
        for law in (one, each)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_unseen_mixtures_where_the_first_share_teaches_most(shared_data: Path) -> None:
    """Mathematics under five-domain mixtures at 70 M: the held-out fifth within 3 %, and the back-test prefers powers to exponentials."""
    table = where(
        read(shared_data / "scaling" / "data_mixing_5mix_70m_160m.csv.gz"), ["model=70M", "step=30000", "valid_domain=DM_Mathematics"]
    )
    held = np.arange(len(table["loss"])) % 5 == 0
    fits = {name: fit(name, take(table, ~held), draws=0, interval="none") for name in ("data_mixing", "additive_mixing")}
    errors = {name: float(np.abs(one(take(table, held)) / table["loss"][held] - 1).mean()) for name, one in fits.items()}
    assert errors["additive_mixing"] < 0.03
    assert compare(fits)[0]["law"] == "additive_mixing"


def test_shares_must_add_up() -> None:
    with pytest.raises(UserError, match="not to 1"):
        fit("additive_mixing", {"mix_a": np.full(9, 0.5), "mix_b": np.full(9, 0.1), "loss": np.full(9, 2.0)})
    with pytest.raises(UserError, match="additive_mixing needs at least two columns"):
        fit("additive_mixing", {"params": np.ones(9), "loss": np.full(9, 2.0)})
