"""Mixtures of training domains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.scaling.fit import Fit, fit
from ingot.scaling.table import read, take, where


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("data_mixing")
    assert found.estimates == pytest.approx(designs["data_mixing"]["truth"], rel=2e-3)


def test_unseen_mixtures(shared_data: Path) -> None:
    """One validation domain of RedPajama mixtures at 70 M parameters: every fifth run held out, within 1 %."""
    table = where(
        read(shared_data / "scaling" / "data_mixing_redpajama_70m_160m.csv.gz"), ["model=70M", "step=30000", "valid_domain=Wikipedia_en"]
    )
    held = np.arange(len(table["loss"])) % 5 == 0
    found = fit("data_mixing", take(table, ~held), draws=0, interval="none", backtest=False)
    assert np.abs(found(take(table, held)) / table["loss"][held] - 1).mean() < 0.01


def test_the_overall_loss_of_unseen_mixtures(shared_data: Path) -> None:
    """All validation domains of the five-domain mixtures at 70 M, five-fold over runs: the weighted sum of their losses within 1 %.

    So, on average, are the domains themselves, by one form for all; the benchmark chooses among four by held-out runs. (The exponential
    laws, product or sum, miss the domains by 1.2 to 1.3 %.)
    """
    folder = shared_data / "scaling"
    table = where(read(folder / "data_mixing_5mix_70m_160m.csv.gz"), ["model=70M", "step=30000"])
    known = read(folder / "data_mixing_valid_weights.csv")
    weight = dict(zip(known["valid_domain"].tolist(), known["weight"].tolist()))
    runs, domains = np.unique(table["run"]), np.unique(table["valid_domain"]).tolist()
    assert len(domains) > 15 and len(runs) > 20
    guess, seen = np.full((len(runs), len(domains)), np.nan), np.full((len(runs), len(domains)), np.nan)
    order = np.random.default_rng(0).permutation(len(runs))
    for fold in range(5):
        held = np.isin(table["run"], runs[order[fold::5]])
        for column, domain in enumerate(domains):
            rows = table["valid_domain"] == domain
            found, test = (
                fit("additive_mixing", take(table, rows & ~held), draws=0, interval="none", backtest=False),
                take(table, rows & held),
            )
            at = np.searchsorted(runs, test["run"])
            guess[at, column], seen[at, column] = found(test), test["loss"]
    assert np.isfinite(guess).all()
    share = np.array([weight[domain] for domain in domains])
    assert np.abs(guess @ share / (seen @ share) - 1).mean() < 0.01
    assert np.abs(guess / seen - 1).mean() < 0.01


def test_shares_must_add_up() -> None:
    with pytest.raises(UserError, match="not to 1"):
        fit("data_mixing", {"mix_a": np.full(9, 0.5), "mix_b": np.full(9, 0.1), "loss": np.full(9, 2.0)})
    with pytest.raises(UserError, match="at least two columns"):
        fit("data_mixing", {"params": np.ones(9), "loss": np.full(9, 2.0)})


def test_the_sum_finds_a_law_of_sums() -> None:
    """1.5 + 0.4 (exp(-12 a) + exp(0.3 b) + exp(-1 c)): the first tenth of a teaches most, which the product cannot say."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet((1.0, 1.0, 1.0), 40)
    loss = 1.5 + 0.4 * np.exp(shares * [-12.0, 0.3, -1.0]).sum(1)
    table = dict(zip(("mix_a", "mix_b", "mix_c"), shares.T)) | {"loss": loss}
    product, total = (fit("data_mixing", table, draws=0, interval="none", knobs={"combine": combine}) for combine in ("product", "sum"))
    assert total.error["worst"] < 1e-3 < product.error["mean"]
    assert total.backtest[0]["mean"] < product.backtest[0]["mean"]
    assert total.estimates["t_a"] == pytest.approx(-12, rel=0.05)
