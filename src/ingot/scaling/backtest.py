"""How wrong past extrapolations were: the law is fitted to the smaller part, and asked about the larger, again and again.

Reach is how far a prediction goes beyond the largest scale that was fitted: 3 means three times its compute (or steps, or whatever the
form's `scale` is). Each fit starts from all starts, never from the fit of everything. Laws without a scale (mixtures) hold out runs in
turn, at reach 1. A law that is asked for a choice (the best learning rate and batch) is tested on the choice, not on the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..core.errors import UserError
from .solve import Problem, from_all_starts

EDGES = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 40.0, 100.0, 1000.0, np.inf)


POOLED = (("mean", 1), ("bias", 1), ("rms", 2))


@dataclass(frozen=True)
class Held:
    """Predictions of held-out rows: reach_m, error_m (predicted / observed - 1, or the difference for linear residuals)."""

    reach_m: np.ndarray
    error_m: np.ndarray

    def bins(self) -> list[dict[str, float]]:
        """By reach: from, to (of the last: the farthest there was), n, mean (absolute error), worst, bias, rms."""
        found = []
        for low, high in pairwise(EDGES):
            error = self.error_m[(self.reach_m >= low) & (self.reach_m < high)]
            if len(error):
                size = np.abs(error)
                last = not (self.reach_m >= high).any()
                found.append(
                    {
                        "from": low,
                        "to": float(self.reach_m.max()) * (1 + 1e-9) if last else high,
                        "n": len(error),
                        "mean": float(size.mean()),
                        "worst": float(size.max()),
                        "bias": float(error.mean()),
                        "rms": float(np.sqrt((error**2).mean())),
                    }
                )
        return found


def backtest(
    problem: Problem, scale_n: np.ndarray | None, groups_n: np.ndarray | None = None, *, cuts: int = 6, least: float = 0.35
) -> list[dict[str, Any]]:
    """Bins of what held-out predictions erred: by scale at several cuts, or by group where there is no scale.

    groups_n: rows that must be held out together. least: share of the rows at the first cut. Bins of a choice say of which, under ``of``.
    """
    splits = (
        _by_scale(problem, scale_n, cuts, least) if scale_n is not None and len(np.unique(scale_n)) > 3 else _by_group(problem, groups_n)
    )
    reach: dict[str, list[np.ndarray]] = {}
    error: dict[str, list[np.ndarray]] = {}
    for theta_P, held, far in _refitted(problem, splits):
        if problem.form.chooses:
            found = problem.form.chosen(theta_P, problem.x, problem.y_n, held, far)
        else:
            with np.errstate(all="ignore"):
                difference = problem.form.predict(theta_P[None], problem.x)[0][held] - problem.y_n[held]
            found = {"": (far, np.expm1(difference) if problem.form.residual == "log" else difference)}
        for what, (reach_m, error_m) in found.items():
            reach.setdefault(what, []).append(reach_m)
            error.setdefault(what, []).append(error_m)
    return [
        ({"of": what} if what else {}) | one
        for what in reach
        for one in Held(np.concatenate(reach[what]), np.concatenate(error[what])).bins()
    ]


def _refitted(problem: Problem, splits: list[Any]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(theta_P, held_n, reach_m) of every split whose fit has a finite objective."""
    for fitted, held, far in splits:
        weights = fitted.astype(float) * (1.0 if problem.w_n is None else problem.w_n)
        found = from_all_starts(replace(problem, w_n=weights), keep=3)
        if np.isfinite(found.objective_K[0]):
            yield found.theta_KP[0], held, far


def _by_scale(problem: Problem, scale_n: np.ndarray, cuts: int, first: float) -> list[Any]:
    # Three rows to spare, or one where the table is so short that nothing could be tested otherwise.
    least = int(problem.free.sum()) + (3 if len(scale_n) > int(problem.free.sum()) + 3 else 1)
    splits, seen = [], set()
    for share in np.linspace(first, 0.9, cuts):
        at = float(np.quantile(scale_n, share))
        fitted = scale_n <= at
        if fitted.sum() < least or fitted.all() or int(fitted.sum()) in seen:
            continue
        seen.add(int(fitted.sum()))
        splits.append((fitted, ~fitted, scale_n[~fitted] / scale_n[fitted].max()))
    return splits


def _by_group(problem: Problem, groups_n: np.ndarray | None, folds: int = 5) -> list[Any]:
    names = np.arange(len(problem.y_n)) if groups_n is None else np.unique(groups_n, return_inverse=True)[1]
    fold_n = np.random.default_rng(0).permutation(int(names.max()) + 1)[names] % folds
    least = int(problem.free.sum()) + 1
    return [
        (fold_n != fold, fold_n == fold, np.ones(int((fold_n == fold).sum())))
        for fold in range(folds)
        if (fold_n != fold).sum() >= least and (fold_n == fold).any()
    ]


def past(bins: list[dict[str, Any]], reach: float, of: str = "") -> dict[str, Any]:
    """What past predictions of this reach erred. of: which choice, where the law is asked for one.

    tested: whether there were any; else the farthest ones are given, and stretch says how much further (as a ratio of logarithms) this one
    reaches.   within: inside the fitted range.   note: the same in words.
    """
    bins = [one for one in bins if one.get("of", "") == of]
    if not bins:
        return {"tested": False, "within": reach <= 1, "reach": reach, "note": "this fit was never back-tested"}
    chosen = next((one for one in bins if reach < one["to"]), bins[-1])
    known = f"{chosen['n']} past predictions {chosen['from']:g} to {chosen['to']:.3g} times beyond their data were off by {chosen['mean']:.2%} on average, {chosen['worst']:.2%} at worst"
    found: dict[str, Any] = {"tested": True, "within": reach <= 1, "reach": reach, "stretch": 1.0, **chosen}
    if reach <= 1:
        return found | {"note": f"within the range of the fitted data; {known}"}
    if reach < bins[-1]["to"]:
        return found | {"note": known}
    stretch = float(np.log(reach) / np.log(max(bins[-1]["to"], 1.05)))
    return found | {
        "tested": False,
        "stretch": max(stretch, 1.0),
        "note": f"no past prediction reached {reach:.3g} times beyond its data; the farthest, {known}",
    }


def past_groups(bins: list[dict[str, Any]]) -> dict[str, Any]:
    """The same for laws without a scale, whose held-out rows lay among the others."""
    if not bins:
        return past(bins, 1.0)
    only = bins[0]
    note = f"{only['n']} held-out rows were off by {only['mean']:.2%} on average, {only['worst']:.2%} at worst"
    return {"tested": True, "within": True, "reach": 1.0, "stretch": 1.0, **only, "note": note}


def pooled(many: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The held-out rows of several such fits as one bin; none where one of them was never back-tested."""
    firsts = [bins[0] for bins in many if bins]
    if len(firsts) < len(many):
        return []
    n = np.array([one["n"] for one in firsts], float)
    mean, bias, square = (float(np.average([one[key] ** power for one in firsts], weights=n)) for key, power in POOLED)
    return [firsts[0] | {"n": int(n.sum()), "mean": mean, "bias": bias, "rms": square**0.5, "worst": max(one["worst"] for one in firsts)}]


def farthest(bins: list[dict[str, Any]]) -> float:
    """How far the back-test reached; 1, the end of the fitted range, where there was none."""
    return max([1.0, *(float(one["to"]) for one in bins)])


def refuse_untested(known: Mapping[str, Any], untested: bool, form: str) -> None:
    """Raise UserError for an extrapolation of which nothing tells how wrong it may be, unless it is wanted all the same."""
    if not (untested or known["tested"] or known["within"]):
        raise UserError(
            f"nothing tells how wrong a prediction of {form} {known['reach']:.3g} times beyond its data is: {known['note']}. "
            "Ask nearer, fit with a back-test that reaches as far, or take the number all the same with --untested (untested=True)"
        )
