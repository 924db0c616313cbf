"""One coefficient for several groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.scaling import fit
from ingot.scaling.shared import fit_shared
from ingot.scaling.table import read, rename, take

QUIET: dict[str, Any] = {"draws": 0, "interval": "none", "backtest": False}


def groups(sigma: float) -> dict[str, dict[str, np.ndarray]]:
    """Four power laws of one exponent, 0.3, each seen at few points of a narrow range."""
    x, draw = np.geomspace(1e8, 1e10, 8), np.random.default_rng(0)
    return {
        name: {"tokens": x, "loss": (E + A * x**-0.3) * np.exp(sigma * draw.normal(size=8))}
        for name, E, A in (("a", 1.5, 300.0), ("b", 2.0, 500.0), ("c", 2.5, 400.0), ("d", 1.8, 700.0))
    }


def test_without_noise_it_is_the_truth() -> None:
    found = fit_shared("power", groups(0.0), "alpha", **QUIET)
    assert all(one.estimates["alpha"] == pytest.approx(0.3, rel=1e-3) for one in found.values())
    assert found["b"].estimates["E"] == pytest.approx(2.0, rel=1e-3) and found["d"].estimates["A"] == pytest.approx(700, rel=0.01)


def test_together_they_determine_what_each_alone_does_not() -> None:
    table = groups(0.004)
    shared = fit_shared("power", table, "alpha", **QUIET)
    alone = [fit("power", one, **QUIET).estimates["alpha"] for one in table.values()]
    values = {one.estimates["alpha"] for one in shared.values()}
    assert len(values) == 1 and abs(values.pop() - 0.3) < 0.5 * np.mean(np.abs(np.array(alone) - 0.3))
    total = sum(one.error["objective"] for one in shared.values())
    for other in (0.29, 0.31):
        moved = [
            fit("power", one, fixed={"alpha": shared["a"].estimates["alpha"] * other / 0.3}, delta=1.0, **QUIET) for one in table.values()
        ]
        assert total <= sum(one.error["objective"] for one in moved)


def test_refuses() -> None:
    with pytest.raises(UserError, match="no coefficient 'eta'"):
        fit_shared("power", groups(0.0), "eta", **QUIET)
    with pytest.raises(UserError, match="nothing to share"):
        fit_shared("power", groups(0.0), "alpha", fixed={"alpha": 0.3}, **QUIET)


def test_larger_half_of_the_over_training_runs(shared_data: Path) -> None:
    """Halved by compute, one exponent for three corpora and eight validation sets: the dearer half of the annealed runs within 2 %."""
    table = rename(
        read(shared_data / "scaling" / "overtraining_losses_small.csv"),
        {"flop": "6*params*tokens", "warmup_tokens": "warmup*global_batch*2048"},
    )
    annealed, cheap = table["warmup_tokens"] < table["tokens"], table["flop"] <= np.median(table["flop"])
    names = [f"{corpus} {valid}" for corpus, valid in zip(table["dataset"], table["valid_set"])]
    rows = {name: np.array([one == name for one in names]) for name in dict.fromkeys(names)}
    fits = fit_shared("over_training", {name: take(table, one & annealed & cheap) for name, one in rows.items()}, "eta", **QUIET)
    error = np.concatenate(
        [np.abs(fits[name](dear) / dear["loss"] - 1) for name, one in rows.items() for dear in (take(table, one & annealed & ~cheap),)]
    )
    assert len(error) == 24 * 7 and error.mean() < 0.02
