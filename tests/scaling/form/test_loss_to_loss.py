"""One loss from another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.scaling.fit import Fit, fit
from ingot.scaling.table import read, rename, take, where


def test_recovers_its_coefficients(recovered: Callable[..., Fit], designs: dict[str, dict[str, Any]]) -> None:
    found = recovered("loss_to_loss")
    assert found.estimates == pytest.approx(designs["loss_to_loss"]["truth"], rel=1e-2)


def test_predicts_another_set_at_ten_times_the_compute(shared_data: Path) -> None:
    """Train loss to C4 loss of models on one corpus: fitted below a tenth of the largest compute, the rest within 2 %."""
    table = where(read(shared_data / "scaling" / "loss_to_loss_sweep.csv.gz"), ["data=smollm-corpus"])
    table = rename(table, {"source_loss": "train_loss_100", "loss": "eval/c4_val/CrossEntropyLoss", "flop": "iso_flop"})
    cheap = table["flop"] <= table["flop"].max() / 10
    found = fit("loss_to_loss", take(table, cheap), draws=0, interval="none", backtest=False)
    dear = take(table, ~cheap)
    assert len(dear["loss"]) >= 3
    assert np.abs(found(dear) / dear["loss"] - 1).mean() < 0.02
