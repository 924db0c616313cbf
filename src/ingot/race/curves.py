"""From a run's ledger to what a race keeps of it: the evaluations against every cost, what was spent, where it went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ledger.ledger import lived
from ..report.figures import flops_by_component, memory_by_kind, number, thinned, time_by_phase
from .metric import metric_name, metric_of
from .reference import REFERENCE, update_bytes

Line = dict[str, Any]
COSTS = ("tokens", "flops", "reference_seconds", "seconds")
POINTS = 120  # of a training curve


def summarize(lines: Sequence[Line], *, metric: str) -> dict[str, Any]:
    """Everything that verdict and page need, as plain data. final: the metric at the end, None when it was never evaluated."""
    lines = lived(lines)
    steps = [line for line in lines if line["kind"] == "step"]
    evaluations = {line["step"]: line for line in lines if line["kind"] == "evaluation" and line.get("results")}
    last = steps[-1] if steps else {}
    start = next((line for line in reversed(lines) if line["kind"] == "start"), {})
    traffic = reference_curve(steps)
    curve: dict[str, list[Any]] = {name: [] for name in ("step", *COSTS, "value")}
    for step, line in sorted(evaluations.items()):
        place = {name: float(line.get(name) or 0.0) for name in ("tokens", "flops", "seconds")}
        for name, value in (
            place | {"step": step, "reference_seconds": traffic.get(step, 0.0), "value": metric_of(line["results"], metric)}
        ).items():
            curve[name].append(value)
    kept = thinned(len(steps), [[number(line.get("loss")) for line in steps]], POINTS // 2)
    final = evaluations.get(last.get("step", -1))
    spent = {name: float(last.get(name) or 0.0) for name in ("tokens", "flops", "seconds", "rows", "step")}
    memory = memory_by_kind(steps)
    return {
        "final": metric_of(final["results"], metric) if final else None,
        "metric": metric_name(final["results"], metric) if final else metric,
        "results": final["results"] if final else {},
        "curve": curve,
        "training": {name: [number(steps[index].get(name)) for index in kept] for name in ("tokens", "flops", "seconds", "loss")},
        "spent": spent | {"reference_seconds": traffic.get(last.get("step", -1), 0.0)},
        "stages": stage_spending(steps),
        "memory": memory,
        "peak_memory": sum(memory.values()),
        "time": time_by_phase(lines, steps),
        "flops": flops_by_component(steps),
        "parameters": start.get("parameters"),
        "machine": start.get("machine"),
        "choices": start.get("choices"),
        "commit": start.get("commit"),
        "restarts": sum(line["kind"] == "start" for line in lines) - 1,
    }


def reference_curve(steps: Sequence[Line]) -> dict[int, float]:
    """Reference seconds spent after each step."""
    total, at = 0.0, {0: 0.0}
    flops, before = 0.0, 0
    for line in steps:
        count = line["step"] - before
        total += REFERENCE.seconds(float(line.get("flops") or 0.0) - flops, count * update_bytes(line.get("memory") or {}))
        flops, before = float(line.get("flops") or 0.0), line["step"]
        at[line["step"]] = total
    return at


def stage_spending(steps: Sequence[Line]) -> list[dict[str, float]]:
    """What each stage spent."""
    found: list[dict[str, float]] = []
    before = dict.fromkeys(("tokens", "flops", "seconds"), 0.0)
    for index, line in enumerate(steps):
        if index + 1 == len(steps) or steps[index + 1].get("stage") != line.get("stage"):
            now = {name: float(line.get(name) or 0.0) for name in before}
            found.append({name: now[name] - before[name] for name in before})
            before = now
    return found
