"""The same search, with the same number of trials, for every arm: a multiplier on its learning rates.

A search is a pure function: from the multipliers tried and their results to the next ones to try. So a race that was killed goes on
with the same trials. A run that failed counts as infinitely bad.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ..core.errors import missing_extra
from .spec import Tuning

Tried = Mapping[float, float | None]  # multiplier -> metric; None: known to fail


def next_factors(tuning: Tuning, tried: Tried) -> list[float]:
    """Multipliers to try next, all at once; nothing when the allowance is used up."""
    if tuning.trials <= 1 or len(tried) >= tuning.trials:
        return []
    searches: dict[str, Callable[[Tuning, Tried], list[float]]] = {"grid": grid, "optuna": sampled}
    return searches[tuning.search](tuning, tried)[: tuning.trials - len(tried)]


def grid(tuning: Tuning, tried: Tried) -> list[float]:
    """First the recipe's own value and its neighbors, then one step at a time: beyond the better edge, else between the best and its
    better neighbor."""
    first = [1.0, shortened(1 / tuning.step), shortened(tuning.step)]
    missing = [factor for factor in first[: tuning.trials] if factor not in tried]
    if missing:
        return missing
    known = sorted(tried)
    best = known.index(best_factor(tried))
    if best in (0, len(known) - 1):
        return [shortened(known[best] / tuning.step if best == 0 else known[best] * tuning.step)]
    side = min((known[best - 1], known[best + 1]), key=lambda factor: badness(tried[factor]))
    middle = shortened(math.sqrt(side * known[best]))
    return [middle] if middle not in tried else []


def sampled(tuning: Tuning, tried: Tried) -> list[float]:
    """Optuna's seeded sampler between four steps below and above; replayed from the beginning, so that it asks the same again."""
    try:
        import optuna
    except ImportError:
        raise missing_extra("optuna", "cluster") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=4))
    study.enqueue_trial({"factor": 1.0})
    for _ in range(tuning.trials):
        trial = study.ask()
        factor = shortened(trial.suggest_float("factor", tuning.step**-4, tuning.step**4, log=True))
        if factor not in tried:
            return [factor]
        study.tell(trial, min(badness(tried[factor]), 1e9))
    return []


def badness(value: float | None) -> float:
    return math.inf if value is None or not math.isfinite(value) else value


def best_factor(tried: Tried) -> float:
    """The multiplier with the lowest metric; among equals the one closest to the recipe's own value."""
    return min(tried, key=lambda factor: (badness(tried[factor]), abs(math.log(factor)), factor))


def at_the_edge(tried: Tried) -> bool:
    """Whether the best is the smallest or largest tried, so that the allowance was too small to find it."""
    return len(tried) > 1 and best_factor(tried) in (min(tried), max(tried))


def shortened(factor: float) -> float:
    """Twelve digits, so that a multiplier is the same number when it comes back from a file."""
    return float(f"{factor:.12g}")
