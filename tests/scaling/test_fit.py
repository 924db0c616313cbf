"""Fitting: intervals, back-tests, doubts, saving, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.core.errors import UserError
from ingot.scaling import Fit, compare, envelope, fit, isoflop, summary
from ingot.scaling.backtest import past
from ingot.scaling.coverage import coverage
from ingot.scaling.held import held_rows
from ingot.scaling.table import read, rename, take, where

Simulate = Callable[..., dict[str, np.ndarray]]
QUIET: dict[str, Any] = {"draws": 0, "interval": "none", "backtest": False}


@pytest.fixture(scope="module")
def fitted(simulate: Simulate) -> Fit:
    return fit("chinchilla", simulate("chinchilla", 0.004))


def test_profile_and_bootstrap_agree_roughly(simulate: Simulate, fitted: Fit, designs: dict[str, Any]) -> None:
    other = fit("chinchilla", simulate("chinchilla", 0.004), interval="bootstrap", draws=1000, backtest=False)
    for name, (low, high) in fitted.intervals.items():
        assert low < fitted.estimates[name] < high
        assert low < designs["chinchilla"]["truth"][name] * 1.5 and high > designs["chinchilla"]["truth"][name] / 1.5
        assert np.log(high / low) == pytest.approx(np.log(other.intervals[name][1] / other.intervals[name][0]), rel=0.6)
    assert other.method["bootstrap"] | {"worst": 0.0} == {"refitted": 10, "agree": 1.0, "worst": 0.0, "converged": 1.0}


def test_interval_grows_with_the_level(simulate: Simulate) -> None:
    table = simulate("power", 0.003)
    ends = [fit("power", table, level=level, draws=0, backtest=False).intervals["alpha"] for level in (0.5, 0.9, 0.99)]
    widths = [high - low for low, high in ends]
    assert widths[0] < widths[1] < widths[2]


def test_outliers_move_it_little(simulate: Simulate) -> None:
    table = simulate("chinchilla", 0.003)
    clean = fit("chinchilla", table, **QUIET).estimates["alpha"]
    table["loss"] = table["loss"].copy()
    table["loss"][::13] *= 1.3
    assert fit("chinchilla", table, **QUIET).estimates["alpha"] == pytest.approx(clean, rel=0.05)


def test_past_errors_grow_with_reach(fitted: Fit) -> None:
    assert len(fitted.backtest) >= 4
    assert fitted.backtest[-1]["rms"] > fitted.backtest[0]["rms"]
    near, far = past(fitted.backtest, 2.5), past(fitted.backtest, 1e9)
    assert near["tested"] and near["from"] <= 2.5 < near["to"] and "on average" in near["note"]
    assert not far["tested"] and "no past prediction reached" in far["note"]
    assert past([], 3.0)["note"] == "this fit was never back-tested"


def test_backtest_does_not_peek(simulate: Simulate) -> None:
    """A law broken above some scale: the back-test must see the break, which a fit of everything would have learned."""
    table = simulate("chinchilla", 0.0005)
    flop = 6 * table["params"] * table["tokens"]
    broken = table | {"loss": np.where(flop > np.quantile(flop, 0.9), table["loss"] * 1.1, table["loss"])}
    found = fit("chinchilla", broken, draws=0, interval="none")
    assert found.backtest[-1]["bias"] < -0.05


def test_saved_and_loaded_it_predicts_the_same(fitted: Fit, tmp_path: Path) -> None:
    fitted.save(tmp_path / "fit.json")
    again = Fit.load(tmp_path / "fit.json")
    point = {"params": [1e9, 7e10], "tokens": [2e10, 1.4e12]}
    assert (again(point) == fitted(point)).all()
    assert (again.sample(point) == fitted.sample(point)).all()
    assert again.intervals == fitted.intervals and again.backtest == fitted.backtest


def test_four_thousand_draws_take_few_seconds_of_the_processor(shared_data: Path) -> None:
    """The 240 Chinchilla points: under 30 processor seconds, and linear in the draws (twice as many cost 1.4 to 2.6 times as much)."""
    table = read(shared_data / "scaling" / "chinchilla_points.csv")
    table = rename(take(table, table["loss"].argsort().argsort() < len(table["loss"]) - 5), {"tokens": "flop/6/params"})

    def spent(draws: int) -> float:
        began = time.process_time()
        found = fit("chinchilla", table, interval="bootstrap", draws=draws, backtest=False)
        assert found.method["bootstrap"]["refitted"] == draws // 100 and found.method["bootstrap"]["agree"] == 1.0
        return time.process_time() - began

    once, twice = spent(4000), spent(8000)
    assert once < 30
    assert 1.4 < twice / once < 2.6


def test_a_summary_ranks_laws_over_groups() -> None:
    row = {"aicc": 0.0, "mean": 0.0, "coefficients": 1}
    ranks = {
        "x": [row | {"law": "one", "held_out": 0.01}, row | {"law": "two", "held_out": 0.02}],
        "y": [row | {"law": "two", "held_out": 0.03}, row | {"law": "one", "held_out": 0.09}],
        "z": [row | {"law": "two", "held_out": 0.01}, row | {"law": "one", "held_out": 0.02}],
    }
    assert [(one["law"], one["best"]) for one in summary(ranks)] == [("two", 2), ("one", 1)]
    assert summary(ranks)[0]["held_out"] == pytest.approx(0.02)


def test_compare_prefers_the_law_that_made_the_data(simulate: Simulate) -> None:
    table = simulate("chinchilla", 0.003)
    fits = {name: fit(name, table, draws=0, interval="none") for name in ("kaplan", "chinchilla")}
    ranked = compare(fits)
    assert [row["law"] for row in ranked] == ["chinchilla", "kaplan"]
    assert ranked[0]["aicc"] == 0 and ranked[1]["aicc"] > 50
    with pytest.raises(UserError, match="same rows"):
        compare({"one": fits["kaplan"], "two": fit("kaplan", {name: column[:-1] for name, column in table.items()}, **QUIET)})


def test_frontiers_find_the_known_exponent() -> None:
    """Equal exponents 0.4: N_opt grows as C^0.5 by either approach."""
    flop = np.repeat(np.geomspace(1e18, 1e21, 8), 9)
    params = np.sqrt(flop / 6 / 20) * np.tile(np.geomspace(0.25, 4, 9), 8)
    loss = 1.7 + 900 * params**-0.4 + 900 * 20**0.4 * (flop / 6 / params) ** -0.4
    found = isoflop(params, flop, loss)
    assert found.exponent == pytest.approx(0.5, abs=0.01) and found.interval[0] <= found.exponent <= found.interval[1]
    assert found.params(1e20) == pytest.approx(np.sqrt(1e20 / 120), rel=0.1)
    assert envelope(params, flop, loss, windows=8).exponent == pytest.approx(0.5, abs=0.05)
    with pytest.raises(UserError, match="at least 3 budgets"):
        isoflop(params[:9], flop[:9], loss[:9])


def test_approaches_agree_on_the_published_points(shared_data: Path) -> None:
    table = read(shared_data / "scaling" / "chinchilla_points.csv")
    assert isoflop(table["params"], table["flop"], table["loss"]).exponent == pytest.approx(0.51, abs=0.04)


def doubts(table: dict[str, Any], form: str = "chinchilla") -> str:
    return "; ".join(fit(form, table, **QUIET).doubts)


def test_untuned_inputs_are_named(simulate: Simulate) -> None:
    table = simulate("chinchilla", 0.003)
    size = len(table["loss"])
    once = {name: np.repeat(column, 3) for name, column in table.items()}
    tried = np.tile([1e-4, 3e-4, 1e-3], size)
    edge = once | {"lr": tried, "loss": once["loss"] * np.where(tried == 1e-3, 1.0, 1.01)}
    middle = once | {"lr": tried, "loss": once["loss"] * np.where(tried == 3e-4, 1.0, 1.01)}
    assert f"in {size} of {size} settings the best learning rate is at the edge" in doubts(edge)
    assert "learning rate" not in doubts(middle)
    assert "every run used the learning rate 0.003" in doubts(table | {"lr": np.full(size, 3e-3)})
    assert "runs spent more than half of their tokens in warm-up" in doubts(table | {"warmup_tokens": 0.8 * table["tokens"]})
    assert "more than 30 % of their peak" in doubts(table | {"lr": np.full(size, 1e-3), "final_lr": np.full(size, 1e-3)})


def test_undetermined_coefficients_are_named() -> None:
    """All models of one size: the data cannot tell A from alpha."""
    tokens = np.geomspace(1e9, 1e11, 30)
    loss = 1.8 + 400 * 1e8**-0.34 + 2000 * tokens**-0.37
    noisy = loss * np.exp(0.003 * np.random.default_rng(0).normal(size=30))
    found = fit("chinchilla", {"params": np.full(30, 1e8), "tokens": tokens, "loss": noisy}, draws=0, backtest=False)
    assert any(doubt.startswith("A is not determined") for doubt in found.doubts), found.doubts


@pytest.mark.filterwarnings("error")
def test_what_exact_points_do_not_determine_is_not_given_to_the_last_digit() -> None:
    """Eight identical runs; and exact runs of one size: no noise to go by, yet E, A and alpha cannot be told apart."""
    same = fit("chinchilla", {"params": np.full(8, 1e7), "tokens": np.full(8, 1e9), "loss": np.full(8, 3.0)}, draws=20)
    assert any(doubt.startswith("1 distinct setting of params, tokens cannot determine 5") for doubt in same.doubts), same.doubts
    tokens = np.geomspace(1e9, 1e11, 12)
    one = fit("chinchilla", {"params": np.full(12, 1e8), "tokens": tokens, "loss": 2.4 + 2000 * tokens**-0.37}, draws=20, backtest=False)
    assert "every row has the same params: nothing tells what it does" in one.doubts
    for found in (same, one):
        assert np.ptp(found.intervals["alpha"]) > 1 and found.intervals["A"][1] > 100 * found.intervals["A"][0], found.intervals


def test_a_blank_in_a_column_that_is_not_read_costs_nothing(simulate: Simulate, tmp_path: Path) -> None:
    table = simulate("chinchilla", 0.003)
    flop = 6 * table["params"] * table["tokens"]
    blank = fit("chinchilla", table | {"flop": np.where(np.arange(len(flop)) == 3, np.nan, flop)}, draws=0, interval="none")
    assert blank.backtest == fit("chinchilla", table, draws=0, interval="none").backtest != []
    blank.save(tmp_path / "fit.json")
    assert Fit.load(tmp_path / "fit.json").scale() == flop.max()


def test_an_accuracy_of_nothing_is_an_accuracy() -> None:
    """Errors of linear residuals are differences; relative ones of a 0 would be infinite."""
    loss = np.linspace(1.9, 3.6, 30)
    table = {"loss": loss, "accuracy": np.round(0.6 / (1 + np.exp(8 * (loss - 2.3))), 3)}
    found = fit("downstream", take(table, loss < 3.4), draws=20)
    assert found.table["accuracy"].min() == 0 and found.error["worst"] < 0.01
    rows = held_rows(found, take(table, loss >= 3.4))
    assert rows and all(abs(row["error"]) < 0.01 and row["seen"] == 0 for row in rows)


def test_held_out_settings_are_told_by_what_was_chosen(simulate: Simulate) -> None:
    """Of a law of learning rates and batches: how far the choices for the largest pair miss that pair's best; its loss cannot be told."""
    table = simulate("batch_lr", 0.0002)
    size = table["params"] * table["tokens"]
    found = fit("batch_lr", take(table, size < size.max()), knobs={"within": 10.0}, draws=20, backtest=False)
    rest = take(table, size == size.max())
    rows = held_rows(found, rest)
    assert [row["of"] for row in rows] == ["lr", "batch"] and all(abs(row["error"]) < 0.1 for row in rows)
    N, D = rows[0]["at"]["params"], rows[0]["at"]["tokens"]
    assert rows[0]["seen"] == pytest.approx(1.79 * N**-0.713 * D**0.307, rel=0.05)
    with pytest.raises(UserError, match="was not fitted"):
        found(rest)


def test_known_coefficients_need_no_rows() -> None:
    N, D = np.array([1e7, 1e7, 1e8, 1e8]), np.array([1e9, 2e9, 1e9, 2e9])
    table = {"params": N, "tokens": D, "loss": 1.8 + 480 * N**-0.35 + 2100 * D**-0.37}
    known = {"E": 1.8, "alpha": 0.35, "beta": 0.37}
    found = fit("chinchilla", table, fixed=known, draws=0, backtest=False, interval="none")
    assert found.estimates["A"] == pytest.approx(480, rel=1e-3)
    with pytest.raises(UserError, match="too few for 4"):
        fit("chinchilla", table, fixed={"E": 1.8})


def test_a_grid_gives_a_frontier_or_says_that_it_does_not() -> None:
    """Sizes times tokens: many runs share a budget, and windows of compute their edges."""
    N, D = (column.ravel() for column in np.meshgrid(np.geomspace(1e6, 1e9, 7), np.geomspace(2e7, 2e10, 7)))
    loss = 1.8 + 480 * N**-0.35 + 2100 * D**-0.37
    for rows in (slice(None), np.isclose(N * D, 2e13, rtol=0.5) | np.isclose(N * D, 2e16, rtol=0.5)):
        try:
            found = envelope(N[rows], (6 * N * D)[rows], loss[rows])
        except UserError as error:
            assert "need at least 3 budgets" in str(error)
        else:
            assert np.isfinite(found.exponent) and len(np.unique(found.compute_m)) == len(found.compute_m) >= 3


def test_coverage_of_a_fit_that_is_told_too_little_noise_is_low(designs: dict[str, Any]) -> None:
    """The counter itself can fail: 50 % intervals do not cover 90 %."""
    design = designs["power"]
    found = coverage("power", design["table"], design["truth"], sigma=0.003, draws=200, level=0.5)
    assert 0.4 < found["overall"] < 0.6


@pytest.mark.parametrize(
    ("form", "table", "options", "message"),
    [
        ("chinchila", {"loss": [2.0]}, {}, "Did you mean 'chinchilla'"),
        ("chinchilla", {"params": [1e8], "loss": [2.0]}, {}, "needs the column tokens"),
        ("chinchilla", {"params": [1e8], "tokens": [1e9], "loss": [2.0]}, {}, "too few"),
        ("power", {"tokens": np.geomspace(1, 9, 9), "loss": np.linspace(-1, 1, 9)}, {}, "above 0"),
        ("power", {"tokens": np.geomspace(1, 9, 9), "loss": np.linspace(2, 1, 9)}, {"fixed": {"Q": 1.0}}, "no coefficient 'Q'"),
        ("power", {"tokens": np.geomspace(1, 9, 9), "loss": np.linspace(2, 1, 9)}, {"columns": {"flop": "6*size"}}, "no column 'size'"),
        ("power", {"tokens": ["a"] * 9, "loss": np.linspace(2, 1, 9)}, {}, "text"),
        ("power", {"tokens": np.linspace(0, 9, 9), "loss": np.linspace(2, 1, 9)}, {}, "tokens must be above 0 in every row"),
        ("power", {"tokens": np.geomspace(1, 9, 9), "loss": np.linspace(2, 1, 9)}, {"delta": 0.0}, "delta wants a number above 0"),
        (
            "power",
            {"tokens": np.geomspace(1, 9, 9), "loss": np.linspace(2, 1, 9)},
            {"fixed": {"alpha": 99.0}},
            "alpha cannot be fixed at 99",
        ),
        ("power", {"tokens": np.geomspace(1, 9, 9), "loss": np.linspace(2, 1, 9)}, {"fixed": {"E": 0.0}}, "E cannot be fixed at 0"),
        ("power", {"tokens": np.geomspace(1, 9, 9), "loss": np.linspace(2, 1, 9)}, {"prior": {"E": (1.0, 0.0)}}, "the prior of E"),
        ("power", {"tokens": np.geomspace(1, 9, 9), "loss": np.linspace(2, 1, 9)}, {"interval": "bootstrap", "draws": 0}, "at least one"),
    ],
)
def test_refuses(form: str, table: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(form, table, **options)


def test_columns_are_computed_and_rows_chosen() -> None:
    table = {"flop": np.array([6e18, 6e19]), "params": np.array([1e8, 1e9]), "set": np.array(["a", "b"])}
    assert rename(table, {"tokens": "flop/6/params"})["tokens"] == pytest.approx([1e10, 1e10])
    assert where(table, ["set!=a"])["params"].tolist() == [1e9]
    assert where(table, ["params<=1e8", "set=a"])["params"].tolist() == [1e8]
    with pytest.raises(UserError, match="no row meets"):
        where(table, ["set=c"])


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    ragged = tmp_path / "a.csv"
    ragged.write_text("x,y\n1,2\n3\n")
    with pytest.raises(UserError, match=r"a\.csv:3: wants 2 values"):
        read(ragged)
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "none.csv")
    with pytest.raises(UserError, match="is no fit"):
        (tmp_path / "b.json").write_text("{}")
        Fit.load(tmp_path / "b.json")
