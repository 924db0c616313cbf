"""Where two laws predict the same loss: the budget, or the size, from which one method overtakes another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import UserError
from .backtest import farthest, past
from .fit import Fit, as_table
from .predict import lowest, reach_of, refuse_curves, refuse_unknown

SAME = 1e-9  # difference of two predictions, of logarithms where losses are, that is none


def crossing(
    first: Fit,
    second: Fit,
    *,
    along: str = "budget",
    low: float | None = None,
    high: float | None = None,
    untested: bool = False,
    **inputs: float,
) -> dict[str, Any]:
    """Where two laws predict the same loss: along the budget (each at its own best sizes) or along an input column, others given.

    low, high: where to look; by default from the smallest fitted scale, at most a hundredth of the largest, to where the back-tests of both
    reached, or, untested, a thousand times the largest scale. Returns at (None when they do not cross there), up_to (how far was looked),
    interval over the draws, share of the draws that cross, which is lower before (None where they are the same throughout), and the past of
    each at that reach. Raises UserError when high lies beyond what was tested, and for inputs that neither law has.
    """
    fits = (first, second)
    _known(fits, along, inputs)
    tops = [_top(one, along) for one in fits]
    least = min([max(tops) / 100, *(scale for one in fits if along == "budget" and (scale := _smallest(one)) is not None)])
    tested = min(_tested(one, along, top, inputs) for one, top in zip(fits, tops))
    if not untested and high is not None and high > tested:
        raise UserError(
            f"nothing tells how wrong these laws are beyond {along} {tested:.3g}; look nearer, or all the same with --untested (untested=True)"
        )
    up_to = high or (max(tops) * 1000 if untested else tested)
    x_m = np.geomspace(min(low or least, up_to / 2), up_to, 161)
    curves = [_along(one, along, x_m, inputs) for one in fits]
    count = min(len(curves[0]), len(curves[1]))
    gap_Km = curves[0][:count] - curves[1][:count]
    at_K = np.array([_root(np.log(x_m), gap_m) for gap_m in gap_Km])
    drawn = at_K[1:][np.isfinite(at_K[1:])]
    level = first.level
    at = float(np.exp(at_K[0])) if np.isfinite(at_K[0]) else None
    ends = tuple(float(np.exp(end)) for end in np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])) if len(drawn) else None
    reaches = (
        {}
        if at is None
        else {
            name: past(one.backtest, reach)
            for name, one in (("first", first), ("second", second))
            if (reach := _reach(one, along, at, inputs)) is not None
        }
    )
    return {
        "along": along,
        "at": at,
        "up_to": float(x_m[-1]),
        "interval": ends,
        "level": level,
        "crossing_draws": float(np.isfinite(at_K[1:]).mean()) if count > 1 else None,
        "lower_before": None if np.allclose(gap_Km[0], 0, atol=SAME) else "first" if gap_Km[0, 0] < 0 else "second",
        "past": reaches,
    }


def _known(fits: tuple[Fit, Fit], along: str, inputs: Mapping[str, float]) -> None:
    """Raise UserError for a law of whole curves, and for an input that would be passed over."""
    for one in fits:
        refuse_curves(one)
    chosen = {"params", "tokens", "flop"} if along == "budget" else {along}
    names = dict.fromkeys(name for one in fits for name in one.law.inputs if name not in chosen)
    refuse_unknown(" and ".join(dict.fromkeys(one.form for one in fits)), inputs, names)


def _top(one: Fit, along: str) -> float:
    """The largest value along which the law was fitted."""
    if along == "budget":
        return one.scale() or 1.0
    if along not in one.law.inputs:
        raise UserError(f"{one.form} has no input {along!r}; it has {', '.join(one.law.inputs)}")
    return float(np.max(one.table[along]))


def _smallest(one: Fit) -> float | None:
    scale = one.law.scale(one.table)
    return float(np.min(scale)) if scale is not None and np.min(scale) > 0 else None


def _reach(one: Fit, along: str, at: float, inputs: Mapping[str, float]) -> float | None:
    """How far beyond its data the law is asked there."""
    return at / (one.scale() or at) if along == "budget" else reach_of(one, as_table({**inputs, along: at}))


def _tested(one: Fit, along: str, top: float, inputs: Mapping[str, float]) -> float:
    """The value along which the law's back-test reached. Scales are proportional to the input, or there is none and its range is all."""
    reach = _reach(one, along, top, inputs)
    return top * max(farthest(one.backtest) / reach, 1.0) if reach else top


def _along(one: Fit, along: str, x_m: np.ndarray, inputs: Mapping[str, float]) -> np.ndarray:
    """(1 + D, m) predictions of the fit and its draws, on the residual scale."""
    law, theta_KP = one.law, np.concatenate([one.theta[None], one.draws])
    if along != "budget":
        return law.predict(theta_KP, law.prepare(as_table({**inputs, along: x_m})))
    if "flop" in law.inputs:
        return law.predict(theta_KP, law.prepare(as_table({**inputs, "flop": x_m})))
    found = []
    for C in x_m:
        log_N = np.linspace(np.log(1e4), np.log(C / 6 / 1e4), 201)
        found.append(
            lowest(
                log_N, law.predict(theta_KP, law.prepare(as_table({"params": np.exp(log_N), "tokens": C / 6 / np.exp(log_N), **inputs})))
            )[1]
        )
    return np.array(found).T


def _root(x_m: np.ndarray, gap_m: np.ndarray) -> float:
    change = np.flatnonzero(np.sign(gap_m[1:]) != np.sign(gap_m[:-1]))
    if not len(change):
        return np.nan
    i = change[0]
    return float(x_m[i] + (x_m[i + 1] - x_m[i]) * gap_m[i] / (gap_m[i] - gap_m[i + 1]))
