r"""Compute-optimal sizes without a law for the loss: approaches 1 and 2 of Hoffmann et al. 2022, arXiv:2203.15556, Sec. 3.1 and 3.2.

    envelope    the run of lowest loss in each window of compute
    isoflop     the vertex of a parabola of loss in log N through the runs of (nearly) equal compute

each followed by N_opt = k C^a, D_opt = C / (6 N_opt); a with a Student interval of the regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ..core.errors import UserError
from .fit import Fit


@dataclass(frozen=True)
class Frontier:
    """N_opt = k C^exponent. interval: of the exponent. compute_m, params_m: the optima it was fitted to."""

    exponent: float
    interval: tuple[float, float]
    log_k: float
    compute_m: np.ndarray
    params_m: np.ndarray

    def params(self, flop: float) -> float:
        """The best number of parameters for a budget."""
        return float(np.exp(self.log_k + self.exponent * np.log(flop)))


def envelope(params: np.ndarray, flop: np.ndarray, loss: np.ndarray, *, windows: int = 12, level: float = 0.9) -> Frontier:
    """Approach 1. A window counts only where its best run has smaller and larger models beside it, so that the minimum is inside."""
    # Edges of a grid coincide; a run belongs to one window only.
    inner = np.unique(np.quantile(np.log(flop), np.linspace(0, 1, windows + 1)[1:-1]))
    window_n = np.searchsorted(inner, np.log(flop), side="right")
    compute, best = [], []
    for window in np.unique(window_n):
        rows = np.flatnonzero(window_n == window)
        if len(rows) >= 3:
            # Within a window more compute means less loss; the slope is taken out so that the window's end does not always win.
            slope = np.polyfit(np.log(flop[rows]), np.log(loss[rows]), 1)[0] if np.ptp(np.log(flop[rows])) > 1e-6 else 0.0
            row = rows[np.argmin(np.log(loss[rows]) - min(slope, 0.0) * np.log(flop[rows]))]
            if params[rows].min() < params[row] < params[rows].max():
                compute.append(flop[row])
                best.append(params[row])
    return _power(np.array(compute), np.array(best), level, "envelope")


def isoflop(params: np.ndarray, flop: np.ndarray, loss: np.ndarray, *, tolerance: float = 0.15, level: float = 0.9) -> Frontier:
    """Approach 2. Runs whose compute is within `tolerance` of each other form a profile; it needs 4 runs and a minimum inside."""
    order = np.argsort(flop)
    profiles: list[list[int]] = []
    for row in order:
        if profiles and flop[row] <= flop[profiles[-1][0]] * (1 + tolerance):
            profiles[-1].append(int(row))
        else:
            profiles.append([int(row)])
    compute, best = [], []
    for rows in profiles:
        size = np.log(params[rows])
        if len(np.unique(np.round(size, 3))) < 4:
            continue
        middle = size.mean()
        curve, slope, _ = np.polyfit(size - middle, loss[rows], 2)
        vertex = middle - slope / (2 * curve) if curve > 0 else np.nan
        if size.min() < vertex < size.max():
            compute.append(np.exp(np.log(flop[rows]).mean()))
            best.append(np.exp(vertex))
    return _power(np.array(compute), np.array(best), level, "IsoFLOP profiles")


def _power(compute_m: np.ndarray, params_m: np.ndarray, level: float, what: str) -> Frontier:
    if (budgets := len(np.unique(np.round(np.log(compute_m), 9)))) < 3:
        raise UserError(f"{what} need at least 3 budgets with a minimum inside, these data have {budgets}")
    line = stats.linregress(np.log(compute_m), np.log(params_m))
    half = stats.t.ppf(0.5 + level / 2, len(compute_m) - 2) * line.stderr
    return Frontier(float(line.slope), (float(line.slope - half), float(line.slope + half)), float(line.intercept), compute_m, params_m)


def frontiers(one: Fit) -> dict[str, dict[str, Any]]:
    """Exponent a of N_opt = k C^a by each approach that the data allow: parametric (of the law), isoflop, envelope."""
    if not {"params", "tokens"} <= set(one.law.inputs) or one.law.output != "loss" or "lr" in one.law.inputs:
        return {}
    found: dict[str, dict[str, Any]] = {}
    if {"alpha", "beta"} <= set(one.estimates) and one.form == "chinchilla":
        found["parametric"] = {"exponent": one.estimates["beta"] / (one.estimates["alpha"] + one.estimates["beta"])}
    params, loss = one.table["params"], one.table["loss"]
    for name, approach in (("isoflop", isoflop), ("envelope", envelope)):
        try:
            frontier = approach(params, 6 * params * one.table["tokens"], loss, level=one.level)
        except UserError:
            continue
        found[name] = {"exponent": frontier.exponent, "interval": frontier.interval, "budgets": len(frontier.compute_m)}
    return found
