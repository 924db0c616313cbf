"""How a running job goes on along a schedule that is yet to come, by a law of whole training curves.

The interval joins in quadrature what the run itself can tell (bootstrap draws, and what the same method erred on the run's own past by how
far it reached) with what it cannot: a rate that has not been as low yet. The law says by how much the falling rate will lower the loss,
against a rate that stays where it is; on published runs it was off by `UNSEEN` of that, which is taken where the draws say less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ..core.errors import UserError
from .backtest import backtest, past, refuse_untested
from .fit import Fit, _minimize, _problem, build
from .form._base import Form
from .interval import draw
from .table import Table, size, take


@dataclass
class Continuation:
    """How a run goes on: loss with low and high at every planned step.

    effect: by how much the planned rate is to lower the loss, against the last rate kept.   past: errors of the same method inside the run
    so far, by reach; note: the same in words.
    """

    step: np.ndarray
    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    effect: np.ndarray
    past: list[dict[str, Any]]
    note: str
    fit: Fit

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without the fit."""
        columns = {name: getattr(self, name).tolist() for name in ("step", "loss", "low", "high", "effect")}
        return columns | {"level": self.level, "past": self.past, "note": self.note}


PRIOR: dict[str, dict[str, tuple[float, float]]] = {
    "multi_power": {"B": (430.0, 0.5), "C": (2.0, 0.5), "beta": (0.59, 0.1), "gamma": (0.64, 0.1), "alpha": (0.46, 0.15)},
    "annealing": {"alpha": (0.48, 0.15), "C": (0.48, 0.24)},
}
"""Values published for 25 M to 400 M parameters (Luo et al. 2025; C of annealing: Tissue et al. 2024), with room: a run that has not yet
annealed says nothing about annealing."""

CUTS = 5
UNSEEN, RUNS = {"multi_power": 0.36, "annealing": 0.45}, 7
"""Root mean square error of the predicted effect of a falling rate, as a share of it, over the seven published schedules at 25 M whose rate
falls after half of their steps, cut there (`benchmarks/scaling_laws.py continued` measures it anew, and how it serves at 100 M)."""


def planned(sofar: Mapping[str, Any], until: float, *, anneal_from: float | None = None, points: int = 100) -> dict[str, np.ndarray]:
    """step, lr of what is to come: the last rate as it is, then, from anneal_from, down to zero in a straight line."""
    last, rate = float(sofar["step"][-1]), float(sofar["lr"][-1])
    if until <= last:
        raise UserError(f"wants a last step after the last logged one, {last:g}; got {until:g}")
    if anneal_from is not None and anneal_from >= until:
        raise UserError(f"wants a rate that begins to fall before the last step, {until:g}; got {anneal_from:g} (--anneal-from)")
    step = np.linspace(last, until, points + 1)[1:]
    start = until if anneal_from is None else max(last, float(anneal_from))
    fall = np.clip((until - step) / max(until - start, 1.0), 0.0, 1.0) if anneal_from is not None else np.ones(points)
    return {"step": step, "lr": rate * fall}


def continued(
    sofar: Mapping[str, Any],
    plan: Mapping[str, Any],
    *,
    law: str = "multi_power",
    like: Fit | None = None,
    level: float = 0.9,
    draws: int = 200,
    seed: int = 0,
    knobs: Mapping[str, Any] | None = None,
    untested: bool = False,
) -> Continuation:
    """Extrapolate a running job. sofar: step, lr, loss as logged; plan: step, lr of what is to come.

    like: a fit of the same law to earlier runs, whose coefficients guide what this run does not show yet (deviation 20 %, and 5 % of an
    exponent); without, published values do. Rates relative to the peak carry over, so B is rescaled by the peak learning rate.
    Raises UserError for a law without curves, too few points, and a plan that goes further than the run's past can test, unless untested.
    """
    table, form = _usable(sofar, law, knobs)
    problem, best = _minimize(_problem(form, table, {}, _guide(law, form, like, float(table["lr"].max()))), form.delta)
    theta_P = best.theta_KP[0]
    draws_KP, agreement = draw(problem, theta_P, draws, np.random.default_rng(seed))
    held = backtest(problem, table["step"], cuts=CUTS, least=0.2)
    ahead = {name: np.concatenate([table[name], np.asarray(plan[name], float)]) for name in ("step", "lr")}
    n, now = len(table["step"]), float(table["step"].max())
    known = past(held, float(ahead["step"].max()) / now)
    refuse_untested(known, untested, f"this run by {law}")
    x = form.prepare(ahead)
    loss = np.exp(form.predict(theta_P[None], x)[0][n:])
    sample = np.exp(form.predict(draws_KP, x)[:, n:])
    low, high = np.nanquantile(sample, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    still = form.prepare(ahead | {"lr": np.concatenate([table["lr"], np.full(len(loss), table["lr"][-1])])})
    effect = np.exp(form.predict(theta_P[None], still)[0][n:]) - loss
    # Points after one cut err together, so the past knows its own size from as many errors as there are cuts.
    by_cuts, by_runs = (float(stats.t.ppf(0.5 + level / 2, count)) for count in (CUTS, RUNS))
    unseen = by_runs * UNSEEN.get(law, max(UNSEEN.values())) * np.abs(effect)
    off = by_cuts * np.array([_rms(past(held, float(step) / now)) for step in ahead["step"][n:]]) * loss
    estimates = {c.name: float(v) for c, v in zip(form.coefficients, form.natural(theta_P))}
    fit = Fit(law, dict(knobs or {}), estimates, {}, level, theta_P, draws_KP, {}, held, [], table, method={"bootstrap": agreement})
    return Continuation(
        ahead["step"][n:],
        loss,
        loss - np.hypot(np.maximum(loss - low, unseen), off),
        loss + np.hypot(np.maximum(high - loss, unseen), off),
        level,
        effect,
        held,
        f"within this run, {known['note']}",
        fit,
    )


def _usable(sofar: Mapping[str, Any], law: str, knobs: Mapping[str, Any] | None) -> tuple[Table, Form]:
    """The points with a loss, and the law of their curve. Raises UserError where either will not do."""
    table = {name: np.asarray(sofar[name], float) for name in ("step", "lr", "loss")}
    table = take(table, np.isfinite(table["loss"]))
    form = build(law, table, knobs)
    if not form.curve:
        raise UserError(f"{law} is no law of whole training curves; take multi_power or annealing")
    if form.by_paper:
        raise UserError(
            f"a single curve that has not annealed yet wants priors, which {law} does not take when it is fitted as its paper does"
        )
    if size(table) < len(form.coefficients) + 5:
        raise UserError(f"{size(table)} points of the curve are too few to extrapolate; {len(form.coefficients) + 5} are needed")
    return table, form


def _rms(known: Mapping[str, Any]) -> float:
    return float(known.get("rms", 0.0) * known.get("stretch", 1.0))


def _guide(law: str, form: Any, like: Fit | None, peak: float) -> dict[str, tuple[float, float]]:
    """Priors by coefficient: none on the level and the size of the curve, which every run shows by itself."""
    if like is None:
        known, reference = PRIOR.get(law, {}), 3e-4
    else:
        known = {
            c.name: (like.estimates[c.name], 0.2 if c.log else 0.05 * abs(like.estimates[c.name]) + 1e-9)
            for c in form.coefficients
            if c.name not in ("L_0", "A")
        }
        reference = float(np.max(like.table["lr"]))
    # Both are per unit of the rate; B's deviation is relative (it is fitted as a logarithm), that of annealing's C is not.
    scale = reference / peak
    per_rate = {"multi_power": {"B": (scale, 1.0)}, "annealing": {"C": (scale, scale)}}.get(law, {})
    return {
        name: (value * per_rate.get(name, (1.0, 1.0))[0], width * per_rate.get(name, (1.0, 1.0))[1])
        for name, (value, width) in known.items()
    }
