"""Asking laws: budgets, optima, mixtures, crossings, running jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.scaling import Fit, best_mixture, crossing, fit, optimum, predict, rate_and_batch, sizes_for
from ingot.scaling.table import read, rename, take, where

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


def test_what_no_past_prediction_reached_is_refused(chinchilla: Fit, simulate: Simulate) -> None:
    never = fit("chinchilla", simulate("chinchilla", 0.002), draws=20, backtest=False)
    for one, far in ((never, 1e29), (never, 2 * chinchilla.scale()), (chinchilla, 1e29)):
        for ask in (predict, optimum, sizes_for):
            with pytest.raises(UserError, match=r"nothing tells how wrong.*--untested") as refused:
                ask(one, budget=far)
            assert "\n" not in str(refused.value)
            assert ask(one, budget=far, untested=True).past["tested"] is False
    assert predict(never, params=1e8, tokens=2e9).reach < 1, "inside the data nothing is extrapolated"
    # Compute within what was fitted, reached by a model that is far beyond all of them.
    with pytest.raises(UserError, match="params"):
        predict(chinchilla, params=1e16, tokens=1e5)


def test_the_refusal_is_that_of_the_errors_it_stands_for(chinchilla: Fit) -> None:
    """Just within the farthest past prediction it answers, just beyond it does not."""
    farthest = chinchilla.scale() * chinchilla.backtest[-1]["to"]
    assert predict(chinchilla, budget=farthest * 0.999).past["tested"]
    with pytest.raises(UserError, match="nothing tells"):
        predict(chinchilla, budget=farthest * 1.001)


def test_compute_is_never_set_against_metered_flops(simulate: Simulate) -> None:
    """A table whose metered FLOPs are twice 6 N D: at its own largest run, the reach is 1."""
    table = simulate("chinchilla", 0.002)
    found = fit("chinchilla", table | {"flop": 12 * table["params"] * table["tokens"]}, draws=0, interval="none")
    top = int(np.argmax(table["params"] * table["tokens"]))
    assert predict(found, params=float(table["params"][top]), tokens=float(table["tokens"][top])).reach == pytest.approx(1)


def test_a_budget_and_a_size_give_the_other(chinchilla: Fit) -> None:
    answer = predict(chinchilla, budget=6e19, params=1e9)
    assert answer.inputs == {"params": 1e9, "tokens": 1e10}


@pytest.mark.parametrize(
    ("options", "message"), [({"budget": "3 h"}, "FLOPs"), ({"params": 1e9}, "needs tokens"), ({"budget": "x"}, "the budget")]
)
def test_refuses(chinchilla: Fit, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        predict(chinchilla, **options)


def test_names_that_a_law_does_not_read_are_refused(chinchilla: Fit) -> None:
    for ask in (predict, optimum, sizes_for):
        with pytest.raises(UserError, match="reads no 'unique_tokens'"):
            ask(chinchilla, budget=1e19, unique_tokens=1e6)
    with pytest.raises(UserError, match="Did you mean 'tokens'"):
        predict(chinchilla, params=1e9, tokens=2e10, toknes=3.0)
    with pytest.raises(UserError, match="reads no 'tokens'"):
        crossing(chinchilla, chinchilla, tokens=1e9)
    with pytest.raises(UserError, match="too often"):
        predict(chinchilla, budget=1e19, params=1e9, tokens=2e10)


def test_a_law_of_whole_curves_tells_nothing_of_a_point() -> None:
    step = np.arange(100.0, 4001.0, 100.0)
    area = 0.05 + 1e-3 * (step - 100)
    one = fit(
        "annealing", {"step": step, "lr": np.full(40, 1e-3), "loss": 2.5 + 0.8 * area**-0.5}, draws=0, interval="none", backtest=False
    )
    for ask in (lambda: predict(one, step=8000, lr=1e-3, untested=True), lambda: crossing(one, one, along="step", lr=1e-3)):
        with pytest.raises(UserError, match=r"whole training curves.*--job"):
            ask()


def test_equal_laws_are_not_lower_than_each_other(chinchilla: Fit) -> None:
    found = crossing(chinchilla, chinchilla)
    assert found["at"] is None and found["lower_before"] is None


def test_crossing_of_two_known_laws() -> None:
    """2 + 10 C^-0.1 and 2.8 + 9 C^-0.15, noise-free: the root of their difference."""
    flop = np.geomspace(1e3, 1e9, 30)
    first, second = 2 + 10 * flop**-0.1, 2.8 + 9 * flop**-0.15
    fits = [fit("power", {"flop": flop, "loss": loss}, knobs={"over": "flop"}, draws=20) for loss in (first, second)]
    found = crossing(*fits, along="flop")
    with pytest.raises(UserError, match="nothing tells"):
        crossing(*fits, along="flop", high=1e30)
    at = found["at"]
    assert at is not None and 2 + 10 * at**-0.1 == pytest.approx(2.8 + 9 * at**-0.15, rel=1e-3)
    assert found["lower_before"] == "second"
    assert crossing(fits[0], fits[0], along="flop")["crossing_draws"] is not None
    worse = fit("power", {"flop": flop, "loss": first + 1}, knobs={"over": "flop"}, draws=0, backtest=False)
    apart = crossing(fits[0], worse, along="flop")
    # `worse` was never back-tested, so nothing is said beyond its data.
    assert apart["at"] is None and apart["up_to"] == pytest.approx(1e9)
    assert crossing(fits[0], worse, along="flop", untested=True)["up_to"] == pytest.approx(1e12)


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
    with pytest.raises(UserError, match="Did you mean 'mix_a'"):
        best_mixture(fits, most={"mix_aa": 0.3})
    for weights in ([0.0, 0.0], [1.0], [2.0, -1.0]):
        with pytest.raises(UserError, match="a weight of at least 0 for each fit"):
            best_mixture(fits, weights)
    assert found["past"]["n"] == sum(part["n"] for one in fits for part in one.backtest), "the rows that every domain held out"
    assert found["past"]["worst"] == max(one.backtest[0]["worst"] for one in fits)


def test_rate_and_batch(simulate: Simulate, chinchilla: Fit) -> None:
    bowl = fit("batch_lr", simulate("batch_lr", 0.0005), knobs={"within": 10.0}, draws=50)
    found = rate_and_batch(bowl, params=5e8, tokens=2e10)
    assert rate_and_batch(bowl, budget=6e19, params=5e8).choice == pytest.approx(found.choice)
    best = optimum(chinchilla, 1e20).choice
    assert rate_and_batch(bowl, budget=1e20, sizes=chinchilla).choice == rate_and_batch(bowl, **best).choice
    with pytest.raises(UserError, match="wants params and tokens"):
        rate_and_batch(bowl, budget=1e20)
    assert found.choice["lr"] == pytest.approx(1.79 * 5e8**-0.713 * 2e10**0.307, rel=0.03)
    assert found.choice["batch"] == pytest.approx(0.58 * 2e10**0.571, rel=0.03)
    assert found.choice_interval["lr"][0] < found.choice["lr"] < found.choice_interval["lr"][1]


def test_past_choices_are_told_not_losses(simulate: Simulate) -> None:
    """The rate's law turns at the largest size: the back-test must see that choices missed, which losses near an optimum hardly show."""
    table = simulate("batch_lr", 0.0003)
    straight = fit("batch_lr", table, knobs={"within": 10.0}, draws=50)
    # The same bowls, their rates moved by a factor of 1.5 at the largest tokens.
    turned = fit(
        "batch_lr", table | {"lr": np.where(table["tokens"] > 2e10, table["lr"] * 1.5, table["lr"])}, knobs={"within": 10.0}, draws=50
    )
    assert {part["of"] for part in straight.backtest} == {"lr", "batch"}

    def worst(one: Fit, of: str) -> float:
        return max(part["worst"] for part in one.backtest if part["of"] == of)

    assert worst(straight, "lr") < 0.1 and 0.2 < worst(turned, "lr") < 0.6
    ask = {"params": 1e9, "tokens": 5e10}
    widths = [np.log(high / low) for low, high in (rate_and_batch(one, **ask).choice_interval["lr"] for one in (straight, turned))]
    assert widths[1] > 2 * widths[0]
    answer = rate_and_batch(straight, **ask)
    assert answer.past["note"].startswith("best lr: ") and "best batch: " in answer.past["note"]
    with pytest.raises(UserError, match="the best lr"):
        rate_and_batch(straight, params=1e12, tokens=1e13)
    assert rate_and_batch(straight, params=1e12, tokens=1e13, untested=True).choice["lr"] > 0


def accuracy(loss: np.ndarray) -> np.ndarray:
    """0.25 + 0.6 / (1 + exp(4 (L - 2.7)))"""
    return np.asarray(0.25 + 0.6 / (1 + np.exp(4.0 * (loss - 2.7))))


def test_accuracy_through_the_loss(chinchilla: Fit) -> None:
    """Two steps of known truth: the answer is the composition, its interval wider than that of either step alone."""
    loss = np.linspace(1.9, 3.8, 40)
    task = fit("downstream", {"loss": loss, "accuracy": accuracy(loss) + 0.004 * np.random.default_rng(0).normal(size=40)}, draws=100)
    with pytest.raises(UserError, match="--through"):
        predict(task, budget=1e21)
    answer, first = predict(task, budget=1e21, through=chinchilla), predict(chinchilla, budget=1e21)
    assert answer.value == pytest.approx(float(task({"loss": first.value})[0])) and answer.choice == first.choice
    assert answer.through is not None and answer.through["value"] == first.value
    truth = float(accuracy(np.array(optimum(chinchilla, 1e21).value)))
    assert answer.low < truth < answer.high
    alone = predict(task, loss=first.value)
    carried = abs(float(np.subtract(*task({"loss": np.array([first.low, first.high])}))))
    assert answer.high - answer.low > max(alone.high - alone.low, 0.9 * carried)
    worse, better = task({"loss": np.array([first.high, first.low])})
    assert answer.value - answer.low == pytest.approx(np.hypot(alone.value - alone.low, alone.value - worse))
    assert answer.high - answer.value == pytest.approx(np.hypot(alone.high - alone.value, better - alone.value))
    assert answer.low >= 0 and answer.high <= 1
    assert "downstream: " in answer.past["note"] and "chinchilla: " in answer.past["note"]
    for wrong, message in (({"through": task}, "is of accuracy"), ({"through": chinchilla, "loss": 2.0}, "predicted by the fit")):
        with pytest.raises(UserError, match=message):
            predict(task, budget=1e21, **wrong)
    with pytest.raises(UserError, match="reads no loss"):
        predict(chinchilla, budget=1e21, through=chinchilla)


def test_joined_intervals_cover() -> None:
    """40 experiments of both steps: 90 % intervals hold the truth in 30 to 40 of them (36, less three deviations)."""
    flop, inside = np.geomspace(1e18, 1e21, 16), 0
    clean, at = 1.7 + 400 * flop**-0.13, 5e20
    truth = float(accuracy(np.array(1.7 + 400 * at**-0.13)))
    for seed in range(40):
        draw = np.random.default_rng(seed)
        loss = fit(
            "power", {"flop": flop, "loss": clean * np.exp(0.003 * draw.normal(size=16))}, knobs={"over": "flop"}, draws=60, backtest=False
        )
        seen = np.linspace(2.2, 3.4, 30)
        task = fit("downstream", {"loss": seen, "accuracy": accuracy(seen) + 0.006 * draw.normal(size=30)}, draws=60, backtest=False)
        answer = predict(task, budget=at, through=loss)
        inside += answer.low < truth < answer.high
    assert inside >= 30


def test_error_of_larger_models_through_their_loss(shared_data: Path) -> None:
    """Over-training runs on C4: loss and average error fitted to two sizes, the error of the two larger ones asked without their loss."""
    folder = shared_data / "scaling"
    losses = where(read(folder / "overtraining_losses_small.csv"), ["dataset=c4_original", "valid_set=c4_val"])
    losses = rename(losses, {"warmup_tokens": "warmup*global_batch*2048"})
    tasks = where(read(folder / "overtraining_downstream_small.csv.gz"), ["dataset=c4_original"])
    losses["error"] = np.array([1 - float(tasks["accuracy"][tasks["run"] == run].mean()) for run in losses["run"]])
    losses = take(losses, losses["warmup_tokens"] < losses["tokens"])
    small = losses["params"] < 1e8
    first, second = (fit(form, take(losses, small), draws=100) for form in ("over_training", "average_error"))
    for row in np.flatnonzero(~small):
        at = {name: float(losses[name][row]) for name in ("params", "tokens")}
        answer = predict(second, through=first, untested=True, **at)
        assert answer.value == pytest.approx(losses["error"][row], rel=0.03)
        assert answer.low < losses["error"][row] < answer.high
