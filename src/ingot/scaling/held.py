"""What a fit says of rows that it has not seen, beside what was measured there."""

from __future__ import annotations

from typing import Any

import numpy as np

from .fit import Fit, build
from .predict import predict
from .rates import rate_and_batch
from .table import Table, size, take


def held_rows(fit: Fit, rest: Table | None) -> list[dict[str, Any]]:
    """Of every row: at (its inputs), x (its scale), seen, predicted, low, high, error, reach, inside. However far it reaches: the truth
    stands beside it. error: relative, or the difference for linear residuals.

    Of a law that is asked for a choice: of every pair of sizes and every choice, named under ``of``; seen is the vertex of the pair's own
    bowl, and pairs without one are passed over. None for laws of whole curves, of which `held_curves` tells.
    """
    if rest is None or not size(rest) or fit.law.curve:
        return []
    law = fit.law
    if law.chooses:
        return [one for pair in _pairs(rest) for one in _choices(fit, pair)]
    found = []
    for row in range(size(rest)):
        at = {name: float(rest[name][row]) for name in law.inputs}
        answer, seen = predict(fit, untested=True, **at), float(rest[law.output][row])
        scale = law.scale(take(rest, [row]))
        error = answer.value / seen - 1 if law.residual == "log" else answer.value - seen
        found.append(_beside(at, scale, seen, (answer.value, answer.low, answer.high), answer.reach, error))
    return found


def _beside(
    at: dict[str, float], scale: np.ndarray | None, seen: float, said: tuple[float, float, float], reach: float | None, error: float
) -> dict[str, Any]:
    """said: predicted, low, high."""
    predicted, low, high = said
    return {
        "at": at,
        "x": None if scale is None else float(scale[0]),
        "seen": seen,
        "predicted": predicted,
        "low": low,
        "high": high,
        "reach": reach,
        "error": error,
        "inside": low <= seen <= high,
    }


def _pairs(rest: Table) -> list[Table]:
    """The rows of each pair of params and tokens."""
    sizes = np.stack([np.asarray(rest[name], float) for name in ("params", "tokens")], 1)
    return [take(rest, (sizes == pair).all(1)) for pair in np.unique(sizes, axis=0)]


def _choices(fit: Fit, pair: Table) -> list[dict[str, Any]]:
    """What was chosen for a pair, beside the best by its own rows."""
    law = build(fit.form, pair, fit.knobs)
    near = take(pair, law.rows(pair))
    at = {name: float(near[name][0]) for name in ("params", "tokens")}
    answer = rate_and_batch(fit, untested=True, **at)
    every, log_loss = np.ones(size(near), bool), np.log(np.asarray(near[law.output], float))
    missed = law.chosen(fit.theta, law.prepare(near), log_loss, every, np.full(size(near), answer.reach))
    return [
        {"of": name}
        | _beside(
            at,
            law.scale(near),
            answer.choice[name] / (1 + error),
            (answer.choice[name], *answer.choice_interval[name]),
            answer.reach,
            error,
        )
        for name, (_, errors) in missed.items()
        for error in map(float, errors)
    ]


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
