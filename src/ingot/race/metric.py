"""What a race measures: which way is better, under which name it is raced, and when a trial's number does not compare.

Effects are differences of logs of a number that is better lower. A share that is better higher is raced as its error: `knn.accuracy`
becomes `1 - knn.accuracy`. A metric of which neither is known is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..core.errors import shown
from ..report.figures import number

Results = Mapping[str, Mapping[str, Any]]
PREFERRED = ("bits_per_byte", "loss")
LOWER = r"loss|perplexity|bits_per_byte|mse|mae|wer|cer|error|false_alarms|loss_(depth|share)_[\w.]+"
SHARES = r"accuracy|exact|found|R@\d+"
ERROR = "1 - "  # in front of a share's name: its error


def raced(metric: str) -> str:
    """The name that a metric is raced under. ValueError where it is not known which way it is better."""
    if _ends(metric, SHARES):
        return ERROR + metric.removeprefix(ERROR)
    if metric == "auto" or (_ends(metric, LOWER) and not metric.startswith(ERROR)):
        return metric
    raise ValueError(
        f"it is not known whether {shown(metric)} is better lower or higher; known are loss, bits_per_byte and what ends in loss, "
        "perplexity, mse, mae, wer, cer or error, and shares: accuracy, exact, found, R@k"
    )


def _ends(metric: str, words: str) -> bool:
    return re.search(rf"(^|[./_])({words})$", metric.removeprefix(ERROR)) is not None


def metric_of(results: Results, metric: str) -> float | None:
    """One number from an evaluation: the mean of the metric over the sources that have it; ``auto`` is bits per byte where all have it,
    else loss. None where none has it, not a number where what was measured is none."""
    name = metric_name(results, metric)
    measured = [number(result[key]) for result in results.values() if (key := name.removeprefix(ERROR)) in result]
    if not measured:
        return None
    mean = sum(math.nan if value is None else value for value in measured) / len(measured)
    return 1 - mean if name.startswith(ERROR) else mean


def metric_name(results: Results, metric: str) -> str:
    """Which metric `auto` stands for."""
    return next((name for name in PREFERRED if all(name in result for result in results.values())), "loss") if metric == "auto" else metric


def lacking(results: Results, metric: str) -> str:
    """That an evaluation did not give the metric, and what it gave."""
    there = sorted({name for result in results.values() for name in result})
    return f"the evaluation gave no {'loss' if metric == 'auto' else metric.removeprefix(ERROR)}; it gave {', '.join(there) or 'nothing'}"


def unusable(value: float | None, results: Results, metric: str) -> str:
    """Why a trial's number cannot be compared, or nothing."""
    if value is None:
        return lacking(results, metric)
    if not math.isfinite(value):
        return "the evaluation is not finite"
    if value <= 0:
        return f"{metric} is {value:g}, and effects are differences of logs, which only a number above 0 has"
    return ""


def held_to(result: dict[str, Any], metric: str | None) -> dict[str, Any]:
    """A trial's result in the race's metric, which the baseline settles; failed, with the reason, where it has another. A program's, whose
    evaluations are all kept, is read again."""
    if metric is None or result["status"] != "done":
        return result
    if result["metric"] != metric and result.get("evaluations"):
        values = [metric_of(evaluation, metric) for evaluation in result["evaluations"]]
        result = result | {"metric": metric, "final": values[-1], "curve": result["curve"] | {"value": values}}
    reason = (
        f"it is measured in {result['metric']}, the baseline in {metric}"
        if result["metric"] != metric
        else unusable(result["final"], result["results"], metric)
    )
    return result | {"status": "failed", "reason": reason} if reason else result
