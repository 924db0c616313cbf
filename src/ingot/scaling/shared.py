"""One coefficient for several groups of rows: the exponent that all corpora and validation sets have in common.

    minimize over c   sum_g min over the others  Q_g(theta_g, c)          Q_g: the objective of group g (``ingot.scaling.solve``)

What each group alone hardly determines, they determine together. The objective of every group is that of one threshold, else they could not
be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import optimize

from ..core.errors import UserError
from .fit import Fit, fit
from .solve import Problem, solve


def fit_shared(
    form: str, groups: Mapping[str, Mapping[str, Any]], share: str, *, delta: float | None = None, **options: Any
) -> dict[str, Fit]:
    """A fit of every group, all with the same `share`, which counts as known there: intervals leave out what little it is uncertain.

    delta: as in ``fit``; where neither it nor the law says one, 1, which is least squares. options: others of ``fit``.
    Raises UserError for a coefficient that the law does not have, or that is already fixed.
    """
    given = dict(options.get("fixed", {}))
    if share in given:
        raise UserError(f"{share} is fixed, so there is nothing to share")
    free = [fit(form, table, delta=delta, **options | {"interval": "none", "draws": 0, "backtest": False}) for table in groups.values()]
    law = free[0].law
    index, delta = law.index(share), delta or law.delta or 1.0
    problems = [_held(one, index, delta, given) for one in free]
    last = [one.theta.copy() for one in free]

    def total(theta: float) -> float:
        found = 0.0
        for group, problem in enumerate(problems):
            start_P = last[group].copy()
            start_P[index] = theta
            one = solve(problem, start_P[None], steps=300, tolerance=1e-10)
            last[group], found = one.theta_KP[0], found + float(one.objective_K[0])
        return found

    alone = np.array([one.theta[index] for one in free])
    low, high = law.coefficients[index].bounds
    reach = max(float(np.ptp(alone)), 0.05 * max(abs(float(np.median(alone))), 1e-3))
    ends = max(float(alone.min()) - 0.2 * reach, low), min(float(alone.max()) + 0.2 * reach, high)
    best = float(optimize.minimize_scalar(total, bounds=ends, method="bounded", options={"xatol": 1e-4 * (ends[1] - ends[0])}).x)
    fixed = given | {share: float(law.coefficients[index].outward(best))}
    return {name: fit(form, table, delta=delta, **options | {"fixed": fixed}) for name, table in groups.items()}


def _held(one: Fit, index: int, delta: float, given: Mapping[str, float]) -> Problem:
    """A group's problem in which the shared coefficient stays where it is put."""
    law = one.law
    y_n = np.asarray(one.table[law.output], float)
    free_P = np.array([coefficient.name not in given for coefficient in law.coefficients])
    free_P[index] = False
    return replace(Problem(law, law.prepare(one.table), np.log(y_n) if law.residual == "log" else y_n, delta), free_P=free_P)
