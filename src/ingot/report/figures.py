"""From ledger lines to the figures of a page: thinned curves, and totals of time, FLOPs and memory. Pure functions of plain data.

The ledger holds a line per *logged* step. Shares of time and FLOPs of a logged step stand for the steps since the line before.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ..ledger.ledger import lived, totals

Line = dict[str, Any]
BUCKETS = 600
COLUMNS = ("step", "tokens", "flops", "seconds", "loss", "lr", "grad_norm", "tokens_per_second", "utilization")
SMOOTHED = ("loss", "grad_norm", "tokens_per_second", "utilization")


def figures(lines: Sequence[Line], objectives: Sequence[Any] = ()) -> dict[str, Any]:
    """Everything that a page draws, as plain data; any kind of line, and any key of a line, may be missing. objectives: of the stages."""
    every, lines = lines, lived(lines)
    steps = [line for line in lines if line["kind"] == "step"]
    last_start = _last(lines, "start")
    return {
        "curves": curves(steps),
        "stages": stage_starts(steps),
        "evaluations": evaluations(lines),
        "events": events(lines, steps),
        "time": time_by_phase(every, steps),
        "flops": flops_by_component(steps),
        "memory": memory_by_kind(steps),
        "samples": [line for line in lines if line["kind"] == "sample"],
        "start": last_start,
        "starts": sum(line["kind"] == "start" for line in lines),
        "end": _last(lines, "end"),
        "last": steps[-1] if steps else {},
        "spent": totals(lines),
        "best": best_evaluations(lines, objectives),
    }


def _last(lines: Sequence[Line], kind: str) -> Line:
    return next((line for line in reversed(lines) if line["kind"] == kind), {})


def number(value: Any) -> float | None:
    """The value as a finite number, else None."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _shorten(value: float | None) -> float | int | None:
    if value is None:
        return None
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


def curves(steps: Sequence[Line]) -> dict[str, list[Any]]:
    """Columns over the logged steps, moving averages as ``smooth_*``; thinned so that extremes survive."""
    columns = {name: [number(line.get(name)) for line in steps] for name in COLUMNS}
    for name in SMOOTHED:
        columns[f"smooth_{name}"] = smoothed(columns[name])
    kept = thinned(len(steps), [columns[name] for name in SMOOTHED])
    return {name: [_shorten(column[index]) for index in kept] for name, column in columns.items()}


def smoothed(values: Sequence[float | None], share: float = 0.01) -> list[float | None]:
    """Exponential averages from both sides, without lag, whose memory is a share of the whole and less near the steep beginning."""
    reach = [max(1.0, min(len(values) * share, 0.1 * index)) for index in range(len(values))]
    ahead = _averaged(values, reach)
    back = _averaged(values[::-1], reach[::-1])[::-1]
    return [left if right is None else right if left is None else (left + right) / 2 for left, right in zip(ahead, back)]


def _averaged(values: Sequence[float | None], reach: Sequence[float]) -> list[float | None]:
    total, weight, result = 0.0, 0.0, []
    for value, memory in zip(values, reach):
        if value is not None:
            decay = 1 - 1 / memory
            total, weight = decay * total + value, decay * weight + 1
        result.append(total / weight if weight else None)
    return result


def thinned(count: int, columns: Iterable[Sequence[float | None]], buckets: int = BUCKETS) -> list[int]:
    """Indices to keep: all, or per bucket of neighbors the first, and the extremes of each column."""
    columns = list(columns)
    if count <= 2 * buckets:
        return list(range(count))
    kept = {0, count - 1}
    for bucket in range(buckets):
        inside = range(bucket * count // buckets, (bucket + 1) * count // buckets)
        kept.add(inside[0])
        for column in columns:
            known = [index for index in inside if column[index] is not None]
            if known:
                kept.add(min(known, key=column.__getitem__))
                kept.add(max(known, key=column.__getitem__))
    return sorted(kept)


def stage_starts(steps: Sequence[Line]) -> list[Line]:
    """The first logged step of every stage after the first."""
    starts = []
    for before, line in pairwise(steps):
        if line.get("stage", 0) != before.get("stage", 0):
            starts.append(_place(line) | {"name": f"stage {line.get('stage')}"})
    return starts


def _place(line: Line) -> Line:
    return {axis: number(line.get(axis)) for axis in ("step", "tokens", "flops", "seconds")}


def evaluations(lines: Iterable[Line]) -> dict[str, Any]:
    """Per source the columns step, tokens, flops, seconds and every metric, thinned."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if line["kind"] == "evaluation":
            for source, metrics in (line.get("results") or {}).items():
                if isinstance(metrics, dict):
                    found[source].append(_place(line) | {f"metric/{name}": number(value) for name, value in metrics.items()})
    curves_by_source = {}
    for source, points in found.items():
        names = sorted({name for point in points for name in point})
        kept = thinned(len(points), [[point.get("metric/bits_per_byte") for point in points]])
        curves_by_source[source] = {name.removeprefix("metric/"): [_shorten(points[index].get(name)) for index in kept] for name in names}
    return curves_by_source


def best_evaluations(lines: Iterable[Line], objectives: Sequence[Any] = ()) -> dict[str, dict[str, Any]]:
    """Per source its last results, and the lowest bits per byte (else loss) with the step it was reached at, of the stages that have the
    last one's objective and metric: others measure something else."""
    best: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line["kind"] != "evaluation":
            continue
        stage = line.get("stage")
        objective = objectives[stage] if isinstance(stage, int) and 0 <= stage < len(objectives) else None
        for source, metrics in (line.get("results") or {}).items():
            if not isinstance(metrics, dict):
                continue
            metric = "bits_per_byte" if "bits_per_byte" in metrics else "loss"
            score = number(metrics.get(metric))
            entry = best.setdefault(source, {})
            if entry.get("of") != (metric, objective):
                entry |= {"best": None, "best_step": None, "of": (metric, objective)}
            entry |= {"last": metrics, "last_step": line.get("step")}
            if score is not None and (entry["best"] is None or score < entry["best"]):
                entry |= {"best": score, "best_step": line.get("step")}
    return best


def events(lines: Iterable[Line], steps: Sequence[Line]) -> list[Line]:
    """Events with their place on every axis, taken from the last step logged before them."""
    places = iter(steps)
    ahead, place = next(places, None), {"step": 0.0, "tokens": 0.0, "flops": 0.0, "seconds": 0.0}
    found = []
    for line in sorted((line for line in lines if line["kind"] == "event"), key=lambda line: number(line.get("step")) or 0.0):
        at = number(line.get("step")) or 0.0
        while ahead is not None and (number(ahead.get("step")) or 0.0) <= at:
            place, ahead = _place(ahead), next(places, None)
        found.append(
            place
            | {"step": at, "name": str(line.get("name", "event")), "message": str(line.get("message", ""))}
            | ({"replayed": True} if line.get("replayed") else {})
        )
    return found


def _shares(steps: Sequence[Line], parts: str, whole: str, cumulative: str) -> dict[str, float]:
    """Sum of the named parts of logged steps, each line scaled to all that was spent since the line before."""
    totals: dict[str, float] = defaultdict(float)
    before = 0.0
    for line in steps:
        now, one = number(line.get(cumulative)), number(line.get(whole))
        spent = {name: number(value) or 0.0 for name, value in (line.get(parts) or {}).items()}
        scale = (now - before) / one if now is not None and one and now > before else 1.0
        before = now if now is not None else before
        for name, value in spent.items():
            totals[name] += value * scale
    return dict(totals)


def largest_first(parts: dict[str, float]) -> dict[str, float]:
    """Without empty parts, and with what has no name of its own at the end."""
    return {name: value for name, value in sorted(parts.items(), key=lambda item: (item[0] in ("other", "rest"), -item[1])) if value > 0}


def time_by_phase(lines: Sequence[Line], steps: Sequence[Line]) -> dict[str, float]:
    """Seconds per phase of all steps, and what evaluations and checkpoints took beside them, those included that a rollback undid."""
    totals = _shares(steps, "phases", "step_seconds", "seconds")
    beside: dict[str, float] = defaultdict(float)
    for line in lines:
        name = "evaluation" if line["kind"] == "evaluation" else line.get("name") if line["kind"] == "event" else None
        took = number(line.get("took"))
        if name and took:
            beside[str(name)] += took
    return largest_first(totals | beside)


def flops_by_component(steps: Sequence[Line]) -> dict[str, float]:
    """FLOPs per component over the run, largest first."""
    return largest_first(_shares(steps, "flops_by_component", "step_flops", "flops"))


def memory_by_kind(steps: Sequence[Line]) -> dict[str, float]:
    """The largest bytes of each kind; ``rest`` is what the peak holds beyond them: activations, batches, the program itself."""
    kinds: dict[str, float] = defaultdict(float)
    for line in steps:
        for name, value in (line.get("memory") or {}).items():
            kinds[name] = max(kinds[name], number(value) or 0.0)
    held = {name: kinds[name] for name in ("weights", "gradients", "optimizer_state") if kinds.get(name)}
    peak = kinds.get("device_peak") or kinds.get("process_peak") or 0.0
    if peak > sum(held.values()):
        held["rest"] = peak - sum(held.values())
    return held
