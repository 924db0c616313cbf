"""How the trials that still run will end: their curves extrapolated, with the interval that past extrapolations of that reach deserve.

Told about once a minute, and drawn in ``running.html`` beside the place of the race's page while trials run. A forecast helps a person to
wait or to give up; no verdict and no early stopping reads it: an arm whose start promises little would be dropped more often than it
deserves, and the survivors would look better than they are.

Earlier runs tell how wrong such forecasts are: finished ones of the same arm, else of all arms. Programs keep their curves to themselves
until they end, and have no outlook.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.atomic import write_text
from ..core.errors import UserError
from ..ledger.ledger import read
from ..report.text import safe
from . import plots
from .course import Course
from .curves import summarize
from .page import digits, figure, page, section, table
from .running import Say
from .spec import Race, part_of
from .trials import Store, Trial
from .words import metric_words

RUNNING = "running.html"
ENOUGH = 9  # evaluations of an earlier run


def outlook(race: Race, store: Store, course: Course, trial: Trial) -> dict[str, Any] | None:
    """How an unfinished trial of a recipe will end. None before its first evaluation.

    x, y: its curve so far, against the race's budget (steps where rows are the budget); at: where it ends; share: of the way. value, low,
    high, level, note: the forecast; None, and `note` the reason, where nothing can be said yet.
    """
    budget = part_of(race.section.budget, race.section.tuning.budget if trial.purpose == "tune" else 1.0)
    try:
        found = summarize(read(store.place(trial) / "run"), metric=race.section.metric)
    except (OSError, UserError):
        return None
    axis = budget.unit if budget.unit in found["curve"] else "step"
    known = [(x, y) for x, y in zip(found["curve"][axis], found["curve"]["value"]) if x and y is not None]
    spent = found["spent"].get(budget.unit) or 0.0
    if not known or not spent:
        return None
    share = spent / budget.value
    at = budget.value if axis == budget.unit else found["spent"]["step"] / share
    entry: dict[str, Any] = {"trial": trial.label, "arm": trial.arm, "share": share, "axis": axis, "at": at, "now": known[-1][1]}
    entry |= {"x": [x for x, _ in known], "y": [y for _, y in known]} | dict.fromkeys(("value", "low", "high", "level"))
    try:
        from ..scaling.learning_curve import extrapolate

        ending = extrapolate(entry["x"], entry["y"], at, earlier=_earlier(store, course, trial, axis))
    except (UserError, ValueError, ArithmeticError) as error:  # a forecast that cannot be made must not end the race
        return entry | {"note": str(error)}
    return entry | {name: getattr(ending, name) for name in ("value", "low", "high", "level")} | {"note": ending.past["note"]}


def _earlier(store: Store, course: Course, trial: Trial, axis: str) -> list[tuple[list[float], list[float]]]:
    """Whole curves of finished runs of the same arm, else of all arms."""
    arms = {
        arm: [*course.tuning_trials.get(arm, []), *course.trials.get(arm, {}).values()]
        for arm in [*course.tuning_trials, *course.trials.keys() - course.tuning_trials.keys()]
    }
    for chosen in (arms.get(trial.arm, []), [one for trials in arms.values() for one in trials]):
        results = {one.key: result for one in chosen if (result := store.result(one)) is not None and result["status"] == "done"}
        curves = [
            [(x, y) for x, y in zip(result["curve"].get(axis, ()), result["curve"].get("value", ())) if x and y is not None]
            for result in results.values()
        ]
        found = [([x for x, _ in one], [y for _, y in one]) for one in curves if len(one) >= ENOUGH]
        if found:
            return found
    return []


def tell_outlook(race: Race, store: Store, course: Course, running: Sequence[Trial], place: Path, say: Say) -> list[dict[str, Any]]:
    """Say how running trials will end, and draw it in a page."""
    found = [one for trial in running if "command" not in trial.what and (one := outlook(race, store, course, trial)) is not None]
    for one in found:
        if one["value"] is not None:
            say(
                f"        {one['trial']}: {one['share']:.0%} done at {one['now']:.4f}, will end at about {one['value']:.4f} "
                f"({one['low']:.4f} to {one['high']:.4f})"
            )
    if found:
        write_text(place / RUNNING, render(race.name, race.section.metric, found))
    return found


def render(name: str, metric: str, found: Sequence[dict[str, Any]]) -> str:
    """The page of what runs."""
    label = "metric" if metric == "auto" else metric_words(metric)
    series = [
        {"name": one["trial"], "color": f"var(--c{index % 7})", "x": one["x"], "y": one["y"]}
        | {"runs": [([one["x"][-1], one["at"]], [one["now"], one[end]]) for end in ("low", "value", "high") if one[end] is not None]}
        for index, one in enumerate(found)
    ]
    drawing = plots.curves(
        series, name_x=found[0]["axis"], name_y=label, words_x=lambda value: f"{value:.3g}", words_y=lambda value: f"{value:.3g}"
    )
    colors = '<div class="legend">' + "".join(f'<span style="--k:{one["color"]}">{safe(one["name"])}</span>' for one in series) + "</div>"
    rows = [
        (
            "",
            [
                safe(one["trial"]),
                f"{100 * one['share']:.0f} %",
                digits(one["now"]),
                digits(one["value"]),
                "–" if one["value"] is None else f"{digits(one['low'])} to {digits(one['high'])}",
            ],
        )
        for one in found
    ]
    notes = "".join(f"<li>{safe(one['trial'])}: {safe(one['note'])}</li>" for one in found)
    body = (
        f'<header><p class="brand">Ingot · race running</p><h1>{safe(name)}</h1><p class="lead">Where each running trial is, and how it may '
        "end. No verdict reads these forecasts.</p></header>"
        + section("Running", figure("running", "So far, and the forecast with its interval", drawing, colors))
        + section("How they may end", table(["trial", "of its budget", "now", "end", "90 % interval"], rows))
        + section("How far forecasts can be trusted", f'<ul class="notes">{notes}</ul>')
    )
    return page(f"{name}: running", body, list(found))
