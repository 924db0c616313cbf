"""The search of learning rates: the same allowance for every arm, and the same trials again after a kill."""

from __future__ import annotations

import math

import pytest

from ingot.race.spec import Tuning
from ingot.race.tune import at_the_edge, best_factor, next_factors


def followed(tuning: Tuning, loss, most: int = 50) -> dict[float, float | None]:
    tried: dict[float, float | None] = {}
    for _ in range(most):
        factors = next_factors(tuning, tried)
        if not factors:
            break
        tried |= {factor: loss(factor) for factor in factors}
    return tried


@pytest.mark.parametrize("search", ["grid", "optuna"])
@pytest.mark.parametrize("trials", [1, 2, 3, 5, 9])
def test_the_allowance_is_used_and_kept(search: str, trials: int) -> None:
    if search == "optuna":
        pytest.importorskip("optuna")
    tried = followed(Tuning(trials=trials, search=search), lambda factor: math.log(factor / 3) ** 2)
    assert len(tried) == (0 if trials == 1 else trials)


def test_the_grid_walks_to_the_better_side_and_then_halves_its_steps() -> None:
    tried = followed(Tuning(trials=7), lambda factor: abs(math.log(factor / 5)))
    assert list(tried)[:5] == [1.0, 0.5, 2.0, 4.0, 8.0]
    assert best_factor(tried) == pytest.approx(5, rel=0.15) and not at_the_edge(tried)


def test_a_failed_run_is_infinitely_bad() -> None:
    tried = followed(Tuning(trials=5), lambda factor: None if factor > 1.2 else 1 / factor)
    assert best_factor(tried) == 1.0 or best_factor(tried) < 1.2
    assert all(value is None for factor, value in tried.items() if factor > 1.2)


def test_the_edge_is_told() -> None:
    assert at_the_edge({0.5: 3.0, 1.0: 2.0, 2.0: 1.0}) and not at_the_edge({0.5: 3.0, 1.0: 1.0, 2.0: 2.0}) and not at_the_edge({1.0: 1.0})


def test_ties_go_to_the_recipe() -> None:
    assert best_factor({0.5: 1.0, 1.0: 1.0, 2.0: 1.0}) == 1.0


@pytest.mark.parametrize("search", ["grid", "optuna"])
def test_a_search_asks_the_same_again(search: str) -> None:
    if search == "optuna":
        pytest.importorskip("optuna")
    tuning = Tuning(trials=6, search=search)
    tried = followed(tuning, lambda factor: math.log(factor) ** 2)
    known: dict[float, float | None] = {}
    for factor in tried:
        if factor not in known:
            assert factor in next_factors(tuning, known)
        known[factor] = tried[factor]
