"""The batched solver against scipy's, and its bounds, weights and priors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize

from ingot.scaling.fit import build
from ingot.scaling.solve import Problem, from_all_starts, huber, solve


@pytest.fixture(scope="module")
def problem(simulate: Callable[..., dict[str, np.ndarray]]) -> Problem:
    table = simulate("chinchilla", 0.005)
    law = build("chinchilla", table)
    return Problem(law, law.prepare(table), np.log(table["loss"]), 1e-3)


def test_huber_is_quadratic_then_linear() -> None:
    assert huber(np.array([0.5, -0.5, 3.0, -3.0]), 1.0) == pytest.approx([0.125, 0.125, 2.5, 2.5])


def test_finds_the_minimum_that_nelder_mead_finds(problem: Problem) -> None:
    found = from_all_starts(problem)

    def objective(theta: np.ndarray) -> float:
        return float(huber(problem.y_n - problem.form.predict(theta[None], problem.x)[0], problem.delta).sum())

    other = optimize.minimize(
        objective,
        found.theta_KP[0] * 1.002,
        method="Nelder-Mead",
        options={"maxiter": 20000, "maxfev": 20000, "xatol": 1e-10, "fatol": 1e-16},
    )
    assert objective(found.theta_KP[0]) == pytest.approx(found.objective_K[0])
    assert found.objective_K[0] <= other.fun * (1 + 1e-6)


def test_problems_of_a_batch_do_not_mix(problem: Problem) -> None:
    rng = np.random.default_rng(0)
    start = from_all_starts(problem).theta_KP
    w_Kn = rng.exponential(size=(7, len(problem.y_n)))
    together = solve(problem, np.repeat(start, 7, 0), w_Kn=w_Kn, tolerance=1e-12, steps=500)
    for row in range(7):
        alone = solve(problem, start, w_Kn=w_Kn[[row]], tolerance=1e-12, steps=500)
        assert together.theta_KP[row] == pytest.approx(alone.theta_KP[0], rel=1e-9)
    assert together.converged_K.all()


def test_stays_within_bounds_and_holds_what_is_fixed(problem: Problem) -> None:
    center = problem.form.theta({"E": 1.9, "A": 482.0, "B": 2085.0, "alpha": 0.3, "beta": 0.3})
    free = np.array([False, True, True, True, True])
    found = from_all_starts(replace(problem, free_P=free, prior=(center, np.full(5, np.inf))))
    assert np.exp(found.theta_KP[0, 0]) == pytest.approx(1.9)
    low, high = problem.form.bounds.T
    assert ((found.theta_KP >= low) & (found.theta_KP <= high)).all()


def test_a_strong_prior_wins_and_a_weak_one_does_not(problem: Problem) -> None:
    best = from_all_starts(problem)
    center = best.theta_KP[0] + np.array([0, 0, 0, 0.05, 0])
    strong, weak = (
        solve(replace(problem, prior=(center, np.array([np.inf] * 3 + [width, np.inf]))), best.theta_KP) for width in (1e-3, 1e5)
    )
    assert strong.theta_KP[0, 3] == pytest.approx(center[3], abs=1e-3)
    assert weak.theta_KP[0, 3] == pytest.approx(best.theta_KP[0, 3], abs=1e-3)


def test_cost_is_linear_in_problems(problem: Problem) -> None:
    start = from_all_starts(problem).theta_KP
    rng = np.random.default_rng(0)

    def seconds(count: int) -> float:
        w_Kn = rng.exponential(size=(count, len(problem.y_n)))
        began = time.perf_counter()
        solve(problem, np.repeat(start, count, 0), w_Kn=w_Kn, tolerance=1e-7)
        return time.perf_counter() - began

    seconds(200)
    ratios = [seconds(2000) / seconds(500) for _ in range(3)]
    assert 2 < sorted(ratios)[1] < 8, ratios
