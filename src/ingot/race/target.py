"""What it costs to reach a stated metric: time and cost to target, with runs that did not get there counted as censored.

A run that ends above the target is known only to cost more than it spent. Left out, it would make a method that seldom gets there
look fast; so medians are Kaplan and Meier's (1958), and a ratio of costs is given only where every run of the pairs got there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .statistics import LEVEL, interval, mean


def reach(curve: Mapping[str, Sequence[float | None]], cost: str, target: float) -> tuple[float, bool] | None:
    """(cost, reached): where the curve first comes down to the target, linear between evaluations; else all it spent. None without a curve."""
    before: tuple[float, float] | None = None
    for place, value in zip(curve.get(cost, ()), curve.get("value", ())):
        if place is None or value is None or not math.isfinite(value):
            continue
        if value <= target:
            if before is None or before[1] <= value:
                return place, True
            share = (before[1] - target) / (before[1] - value)
            return before[0] + share * (place - before[0]), True
        before = (place, value)
    return (before[0], False) if before else None


def survival_median(costs: Sequence[tuple[float, bool]]) -> float | None:
    """Kaplan and Meier's median of censored costs; None where less than half are known to get there."""
    alive, share = len(costs), 1.0
    for cost, reached in sorted(costs, key=lambda item: (item[0], not item[1])):
        if reached:
            share *= 1 - 1 / alive
            if share <= 0.5 + 1e-12:
                return cost
        alive -= 1
    return None


def cost_to_target(
    baseline: Mapping[int, tuple[float, bool]], arm: Mapping[int, tuple[float, bool]], level: float = LEVEL, compared: int = 1
) -> dict[str, Any]:
    """The arm's median cost, how many of its runs got there, and the ratio to the baseline's with its interval over pairs of seeds.

    ratio: None unless all runs of at least two pairs got there; then `bound` says what is still known: the ratio is above it, from the
    costs of censored runs of the arm (None where the baseline is censored as well).
    """
    costs = list(arm.values())
    found: dict[str, Any] = {
        "median": survival_median(costs),
        "reached": sum(reached for _, reached in costs),
        "runs": len(costs),
        "ratio": None,
        "low": None,
        "high": None,
        "bound": None,
        "costs": [[cost, reached] for cost, reached in costs],
    }
    pairs = [(baseline[seed], arm[seed]) for seed in sorted(baseline.keys() & arm.keys()) if baseline[seed][0] > 0 and arm[seed][0] > 0]
    logs = [math.log(theirs[0] / ours[0]) for ours, theirs in pairs]
    if len(pairs) >= 2 and all(ours[1] and theirs[1] for ours, theirs in pairs):
        low, high = interval(logs, level / compared)
        found |= {"ratio": math.exp(mean(logs)), "low": math.exp(low), "high": _exp(high)}
    elif pairs and all(ours[1] for ours, _ in pairs):
        found["bound"] = math.exp(mean(logs))
    return found


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
