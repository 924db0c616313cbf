"""A verdict in words: one sentence that a person can quote, with everything that makes it honest in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.amounts import count, duration
from ..core.quantities import parse_quantity
from .metric import ERROR
from .spec import BASELINE, CONTROL

METRICS = {"bits_per_byte": "bits per byte", "loss": "loss"}


def metric_words(metric: str) -> str:
    if metric.startswith(ERROR):
        return f"error (1 − {metric.removeprefix(ERROR)})"
    return METRICS.get(metric, metric.replace("_", " "))


def percent(value: float | None, sign: bool = False) -> str:
    """A share as people write it: 1.23 %, or with its sign."""
    if value is None:
        return "unbounded"
    digits = 2 if abs(value) < 0.0995 else 1
    text = f"{100 * value:{'+' if sign else ''}.{digits}f} %"
    return text.replace("-", "−")


def budget_words(text: str) -> str:
    """``8 M tokens``, ``30 TFLOP``, ``2 min 00 s``."""
    quantity = parse_quantity(text)
    if quantity.unit == "seconds":
        return duration(quantity.value)
    return count(quantity.value, "FLOP") if quantity.unit == "flops" else f"{count(quantity.value)} {quantity.unit}"


def span(effect: dict[str, Any]) -> str:
    """The interval of an effect, low to high."""
    return f"{percent(effect['low'], True)} to {percent(effect['high'], True)}"


def confidence(verdict: dict[str, Any]) -> str:
    """What intervals cover: ``95 %``, or more where a race was looked at before."""
    return f"{100 * (1 - verdict['level']):.3g} %"


def counted(numbers: Sequence[int]) -> str:
    """``3``, ``3 and 5``, ``3, 5 and 8``."""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


def clause(name: str, arm: dict[str, Any], metric: str, margin: float, covers: str = "95 %") -> str:
    """What is found for one contender. covers: by the interval."""
    effect, verdict = arm.get("effect"), arm.get("verdict")
    if verdict == "failed":
        return (
            f"{name} failed in {len(arm['failed'])} of {arm['runs']} runs"
            if arm["failed"]
            else f"{name} cannot be judged, because the baseline failed"
        )
    if effect is None:
        return f"{name} was not measured"
    if verdict == "off budget":
        return f"{name} cannot be compared: a run spent more or less than the budget"
    if verdict in ("better", "worse"):
        return f"{name} reaches {percent(abs(effect['mean']))} {'lower' if verdict == 'better' else 'higher'} {metric} ({covers} interval {span(effect)})"
    if verdict == "no difference":
        return f"{name} makes no difference within {percent(margin)} of {metric} ({covers} interval {span(effect)})"
    return f"{name} is not resolved ({percent(effect['mean'], True)} {metric}, {covers} interval {span(effect)})"


def sentence(verdict: dict[str, Any]) -> str:
    """The race in one sentence."""
    metric = metric_words(verdict["metric"])
    clauses = [
        clause(name, arm, metric, verdict["margin"], confidence(verdict))
        for name, arm in verdict["arms"].items()
        if name not in (BASELINE, CONTROL)
    ]
    size = verdict["arms"][BASELINE].get("parameters")
    trials = verdict["tuning"]["trials"]
    tuned = f"learning rates tuned with {trials} trials each" if trials > 1 else "learning rates as in the recipes, not tuned"
    before = verdict["looks"]["before"]
    who = f"a model of {count(size)} parameters" if size else "the baseline"
    return (
        f"At {budget_words(verdict['budget'])}, against {who}: {'; '.join(clauses)}; {verdict['seeds']} paired seeds, {tuned}"
        + (f", intervals for {len(clauses)} contenders together" if len(clauses) > 1 else "")
        + (f", judged more strictly after looks at {counted(before)} seeds" if before else "")
        + (", a tiny twin that shows only that the race runs" if verdict["tiny"] else "")
        + "."
    )
