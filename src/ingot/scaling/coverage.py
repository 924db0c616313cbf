"""Do the intervals hold what they promise? Data are drawn from a law with known coefficients, and it is counted how often they are covered.

Worth running on the design of an experiment before it is paid for: it also shows which coefficients the design will not determine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .fit import HUBER, build
from .interval import profile
from .solve import Problem, from_all_starts, solve


def coverage(
    form: str,
    table: Mapping[str, Any],
    truth: Mapping[str, float],
    *,
    sigma: float,
    draws: int = 500,
    level: float = 0.9,
    delta: float | None = None,
    knobs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Cover rates by coefficient over `draws` data sets with normal errors of deviation sigma on the residual scale.

    delta: as in fit. all_starts_agree: share of 1 % of the data sets for which all starts find no better fit than the one used, which
    starts at the truth. width: median relative width (absolute for coefficients that are not positive).
    """
    law = build(form, table, knobs)
    theta_P, x = law.theta(truth), law.prepare(table)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        clean_n = law.predict(theta_P[None], x)[0]
    y_Kn = clean_n + sigma * rng.normal(size=(draws, len(clean_n)))
    problem, theta_KP, objective_K = _fit_each(Problem(law, x, clean_n, 1.0), theta_P, y_Kn, law.delta if delta is None else delta)
    ends_KP2 = profile(problem, theta_KP, y_Kn=y_Kn, level=level)
    inside_KP = (ends_KP2[..., 0] <= theta_P) & (theta_P <= ends_KP2[..., 1])
    check = rng.choice(draws, max(1, draws // 100), replace=False)
    again = [from_all_starts(replace(problem, delta=_at(problem.delta, k)), y_Kn=y_Kn[[k]], keep=3).objective_K[0] for k in check]
    names = [coefficient.name for coefficient in law.coefficients]
    rates = dict(zip(names, inside_KP.mean(0).tolist()))
    return {
        "coverage": rates,
        "overall": float(inside_KP.mean()),
        "lowest": min(rates.values()),
        "highest": max(rates.values()),
        "draws": draws,
        "level": level,
        "all_starts_agree": float(np.mean(objective_K[check] <= np.array(again) * (1 + 1e-3))),
        "width": dict(zip(names, np.median(ends_KP2[..., 1] - ends_KP2[..., 0], axis=0).tolist())),
    }


def _at(delta: Any, k: int) -> float:
    return float(delta if np.ndim(delta) == 0 else delta[k, 0])


def _fit_each(problem: Problem, theta_P: np.ndarray, y_Kn: np.ndarray, delta: float | None) -> tuple[Problem, np.ndarray, np.ndarray]:
    """The same steps as fit takes, for every data set at once."""
    start_KP = np.repeat(theta_P[None], len(y_Kn), 0)
    first = replace(problem, delta=delta if delta is not None else max(1e-4 * float(np.std(problem.y_n)), 1e-9))
    found = solve(first, start_KP, y_Kn=y_Kn, steps=400)
    if delta is None:
        n, P = y_Kn.shape[1], len(theta_P)
        for _ in range(2):
            r_Kn = y_Kn - problem.form.predict(found.theta_KP, problem.x)
            sigma_K1 = np.median(np.abs(r_Kn), axis=1, keepdims=True) / 0.6745 * np.sqrt(n / (n - P))
            first = replace(first, delta=np.maximum(HUBER * sigma_K1, 1e-12))
            found = solve(first, found.theta_KP, y_Kn=y_Kn, steps=400, tolerance=1e-10)
    return first, found.theta_KP, found.objective_K
