"""Asking laws: budgets, optima, mixtures, crossings, running jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.scaling import Fit, best_mixture, continued, crossing, fit, optimum, predict, rate_and_batch
from ingot.scaling.table import read, take, where

Simulate = Callable[..., dict[str, np.ndarray]]
TRUTH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


@pytest.fixture(scope="module")
def chinchilla(simulate: Simulate) -> Fit:
    return fit("chinchilla", simulate("chinchilla", 0.002), draws=100)


def test_best_sizes_are_those_of_the_closed_form(chinchilla: Fit) -> None:
    """Hoffmann et al. 2022, Eq. 4."""
    law = chinchilla.estimates
    G = (law["alpha"] * law["A"] / (law["beta"] * law["B"])) ** (1 / (law["alpha"] + law["beta"]))
    answer = optimum(chinchilla, "1e21 flops")
    assert answer.choice["params"] == pytest.approx(G * (1e21 / 6) ** (law["beta"] / (law["alpha"] + law["beta"])), rel=1e-3)
    assert 6 * answer.choice["params"] * answer.choice["tokens"] == pytest.approx(1e21)
    assert answer.value == pytest.approx(float(chinchilla(answer.choice)[0]), rel=1e-6)
    low, high = answer.choice_interval["params"]
    assert low < answer.choice["params"] < high


def test_a_prediction_knows_its_reach(chinchilla: Fit) -> None:
    within, beyond = predict(chinchilla, params=1e8, tokens=2e9), predict(chinchilla, budget="1e24 flops")
    assert within.reach is not None and within.reach < 1 and within.past["within"]
    assert beyond.reach == pytest.approx(1e24 / chinchilla.scale(), rel=1e-6)
    assert not beyond.past["within"] and "off by" in beyond.past["note"]
    assert (beyond.high - beyond.low) / beyond.value > (within.high - within.low) / within.value
    truth = 1.8172 + 482.01 * 1e8**-0.3478 + 2085.43 * 2e9**-0.3658
    assert within.low < truth < within.high


def test_a_budget_and_a_size_give_the_other(chinchilla: Fit) -> None:
    answer = predict(chinchilla, budget=6e19, params=1e9)
    assert answer.inputs == {"params": 1e9, "tokens": 1e10}


@pytest.mark.parametrize(
    ("options", "message"), [({"budget": "3 h"}, "FLOPs"), ({"params": 1e9}, "needs tokens"), ({"budget": "x"}, "the budget")]
)
def test_refuses(chinchilla: Fit, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        predict(chinchilla, **options)


def test_crossing_of_two_known_laws() -> None:
    """2 + 10 C^-0.1 and 2.8 + 9 C^-0.15, noise-free: the root of their difference."""
    flop = np.geomspace(1e3, 1e9, 30)
    first, second = 2 + 10 * flop**-0.1, 2.8 + 9 * flop**-0.15
    fits = [fit("power", {"flop": flop, "loss": loss}, knobs={"over": "flop"}, draws=20) for loss in (first, second)]
    found = crossing(*fits, along="flop")
    at = found["at"]
    assert at is not None and 2 + 10 * at**-0.1 == pytest.approx(2.8 + 9 * at**-0.15, rel=1e-3)
    assert found["lower_before"] == "second"
    assert crossing(fits[0], fits[0], along="flop")["crossing_draws"] is not None
    worse = fit("power", {"flop": flop, "loss": first + 1}, knobs={"over": "flop"}, draws=0, backtest=False)
    assert crossing(fits[0], worse, along="flop")["at"] is None


def test_crossing_along_the_budget(chinchilla: Fit, simulate: Simulate) -> None:
    table = simulate("chinchilla", 0.002, seed=1)
    late = fit("chinchilla", table | {"loss": table["loss"] * 0.97 + 3000 * (6 * table["params"] * table["tokens"]) ** -0.22}, draws=20)
    found = crossing(chinchilla, late)
    assert found["at"] is not None and found["lower_before"] == "first"
    assert predict(chinchilla, budget=found["at"]).value == pytest.approx(predict(late, budget=found["at"]).value, rel=2e-3)
    assert set(found["past"]) == {"first", "second"}


def test_best_mixture_of_two_domains() -> None:
    """Two mirrored domains: half and half; with a cap on one, the cap."""
    share = np.linspace(0.05, 0.95, 19)
    table = {"mix_a": share, "mix_b": 1 - share}
    fits = [fit("data_mixing", table | {"loss": 2 + np.exp(0.5 - 2 * part)}, draws=0, interval="none") for part in (share, 1 - share)]
    found = best_mixture(fits)
    assert found["shares"] == pytest.approx({"mix_a": 0.5, "mix_b": 0.5}, abs=1e-2)
    assert found["distance"] < 0.05
    assert best_mixture(fits, most={"a": 0.3})["shares"]["mix_a"] == pytest.approx(0.3, abs=1e-3)
    assert best_mixture(fits, [1.0, 0.0])["shares"]["mix_a"] == pytest.approx(1.0, abs=1e-2)
    with pytest.raises(UserError, match="less than 1"):
        best_mixture(fits, most={"a": 0.3, "b": 0.3})


def test_rate_and_batch(simulate: Simulate, chinchilla: Fit) -> None:
    bowl = fit("batch_lr", simulate("batch_lr", 0.0005), knobs={"within": 10.0}, draws=50, backtest=False)
    found = rate_and_batch(bowl, params=5e8, tokens=2e10)
    assert rate_and_batch(bowl, budget=6e19, params=5e8).choice == pytest.approx(found.choice)
    best = optimum(chinchilla, 1e20).choice
    assert rate_and_batch(bowl, budget=1e20, sizes=chinchilla).choice == rate_and_batch(bowl, **best).choice
    with pytest.raises(UserError, match="wants params and tokens"):
        rate_and_batch(bowl, budget=1e20)
    assert found.choice["lr"] == pytest.approx(1.79 * 5e8**-0.713 * 2e10**0.307, rel=0.03)
    assert found.choice["batch"] == pytest.approx(0.58 * 2e10**0.571, rel=0.03)
    assert found.choice_interval["lr"][0] < found.choice["lr"] < found.choice_interval["lr"][1]


@pytest.mark.parametrize(
    ("millions", "run", "cut"), [(25, "constant_24000", 12000), (25, "cosine_24000", 12000), (100, "wsd_20000_24000", 18000)]
)
def test_continues_a_running_job(shared_data: Path, millions: int, run: str, cut: int) -> None:
    """Half a run (or a run before its decay) and its plan: the rest within 2 %, and the end within the interval."""
    table = where(read(shared_data / "scaling" / "lr_schedule_loss_curves.csv"), [f"model_millions={millions}", f"schedule={run}"])
    sofar, rest = take(table, table["step"] <= cut), take(table, table["step"] > cut)
    found = continued(sofar, {"step": rest["step"], "lr": rest["lr"]}, draws=100)
    assert np.abs(found.loss / rest["loss"] - 1).max() < 0.025
    assert found.low[-1] < rest["loss"][-1] < found.high[-1]
    assert found.past


def test_too_short_a_curve_is_refused() -> None:
    with pytest.raises(UserError, match="too few"):
        continued({"step": [1, 2], "lr": [1e-3, 1e-3], "loss": [3.0, 2.9]}, {"step": [3], "lr": [1e-3]})
