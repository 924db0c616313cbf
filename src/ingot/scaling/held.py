"""What a fit says of rows that it has not seen, beside what was measured there."""

from __future__ import annotations

from typing import Any

import numpy as np

from .fit import Fit
from .predict import predict
from .table import Table, take


def held_rows(fit: Fit, rest: Table | None) -> list[dict[str, Any]]:
    """Of every row: x (its scale), seen, predicted, low, high, error, reach, inside. However far it reaches: the truth stands beside it.

    None for laws of whole curves, of which `held_curves` tells.
    """
    if rest is None or not len(next(iter(rest.values()))) or fit.law.curve:
        return []
    found = []
    for row in range(len(rest[fit.law.output])):
        at = {name: float(rest[name][row]) for name in fit.law.inputs}
        answer, seen = predict(fit, untested=True, **at), float(rest[fit.law.output][row])
        scale = fit.law.scale({name: np.asarray(column)[[row]] for name, column in rest.items()})
        found.append(
            {
                "x": None if scale is None else float(scale[0]),
                "seen": seen,
                "predicted": answer.value,
                "low": answer.low,
                "high": answer.high,
                "reach": answer.reach,
                "error": answer.value / seen - 1,
                "inside": answer.low <= seen <= answer.high,
            }
        )
    return found


def held_curves(fit: Fit, rest: Table) -> list[dict[str, Any]]:
    """All rows held out together (run ``""``), then by run where there are several: n, mean and worst relative error, r2."""
    guess, seen = _along(fit, rest), rest[fit.law.output]
    names = list(dict.fromkeys(rest["run"].tolist())) if "run" in rest else []
    found = []
    for name, rows in [("", seen == seen), *((str(run), rest["run"] == run) for run in names if len(names) > 1)]:
        off, square = guess[rows] - seen[rows], ((seen[rows] - seen[rows].mean()) ** 2).sum()
        error = np.abs(off / seen[rows])
        found.append(
            {
                "run": name,
                "n": len(off),
                "mean": float(error.mean()),
                "worst": float(error.max()),
                "r2": float(1 - (off**2).sum() / square) if square else None,
            }
        )
    return found


def _along(fit: Fit, rest: Table) -> np.ndarray:
    """Predictions of the rows held out, each after all rows of its run that come before it, also those that were fitted."""
    names = [name for name in ("run", *fit.law.inputs) if name in rest]
    whole = {name: np.concatenate([fit.table[name], rest[name]]) for name in names}
    order = np.argsort(whole["step"], kind="stable")
    guess = np.empty(len(order))
    guess[order] = fit(take(whole, order))
    return guess[-len(rest["step"]) :]
