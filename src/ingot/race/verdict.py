"""From the results of a race to its verdict: one plain object that the page draws, the results keep and the sentence quotes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..core.parts import plain
from ..core.recipe import difference
from .arms import TOLERANCE, stage_shares
from .clock import all_together, span
from .course import Course
from .curves import COSTS
from .looks import Standing, first, following
from .recommend import MOST, resolution_at, seeds_for
from .spec import BASELINE, CONTROL, Race
from .statistics import Effect, differences, effects, mean, word
from .stopping import level_at_end
from .target import cost_to_target, reach
from .trials import Store
from .tune import at_the_edge
from .words import counted, sentence

COLUMNS = ("tokens", "rows", "flops", "seconds", "reference_seconds", "cpu_seconds")
Results = dict[str, dict[int, dict[str, Any]]]


def judge(race: Race, store: Store, course: Course, *, notes: list[str], standing: Standing | None = None) -> dict[str, Any]:
    """Everything a reader may ask of the race. Every trial of the course must be done. standing: the looks before this one, none when
    not given."""
    section = race.section
    results = {
        arm: {index: found for index, trial in runs.items() if (found := store.result(trial)) is not None}
        for arm, runs in course.trials.items()
    }
    seeds = course.seeds or section.pilot
    standing = standing or first(seeds, section.looks, piloted=section.seeds == "auto")
    level = standing.now.level
    values = {arm: {index: found["final"] for index, found in runs.items() if found["status"] == "done"} for arm, runs in results.items()}
    arms = {arm: _arm(race, store, course, arm, results[arm], seeds) for arm in results}
    _side_by_side(race, store, course, results, arms)
    judged = _effects(race, course, values, arms, level)
    for arm, (found_word, effect) in judged.items():
        arms[arm] |= {"verdict": found_word, "effect": None if effect is None else _shown(effect)}
    target = section.target or max((value for value in values[BASELINE].values()), default=math.nan)
    _targets(race, results, arms, target, level)
    _paired(race, results, arms, level)
    metric = next((found["metric"] for runs in results.values() for found in runs.values() if found["status"] == "done"), section.metric)
    commits = sorted({commit for one in arms.values() for commit in one["commits"]})
    machine: dict[str, Any] = next((found["machine"] for runs in results.values() for found in runs.values() if found.get("machine")), {})
    verdict: dict[str, Any] = {
        "race": race.name,
        "question": section.question,
        "tiny": race.tiny,
        "budget": str(section.budget),
        "unit": section.budget.unit,
        "budget_value": section.budget.value,
        "metric": metric,
        "seeds": seeds,
        "first_seed": section.first_seed,
        "chosen": section.seeds == "auto",
        "margin": section.margin,
        "level": level,
        "looks": {"before": list(standing.before), "planned": section.looks, "error": standing.now.error},
        "early_stopping": section.early_stopping,
        "tuning": {
            "trials": section.tuning.trials,
            "step": section.tuning.step,
            "budget": section.tuning.budget,
            "search": section.tuning.search,
        },
        "target": target,
        "arms": arms,
        "recommend": _recommend(race, judged, seeds, standing),
        "machine": machine,
        "memory_cap": section.memory.value if section.memory else None,
        "commits": commits,
        "claim": plain(section.claim),
        "pairs": {
            arm: difference(race.entrants[BASELINE].tree, race.entrants[arm].tree)
            if race.entrants[arm].arm.command is None
            else [race.entrants[arm].arm.command or ""]
            for arm in race.contenders
        },
    }
    verdict["pareto"] = {
        cost: front(
            {
                arm: (one["mean"], one["costs"].get(cost))
                for arm, one in arms.items()
                if arm != CONTROL and (cost != "seconds" or one["side_by_side"])
            }
        )
        for cost in ("peak_memory", "reference_seconds", "seconds", "flops")
    }
    verdict["notes"] = notes + _notes(race, arms, commits) + look_notes(standing)
    verdict["sentence"] = sentence(verdict)
    return verdict


def _arm(race: Race, store: Store, course: Course, arm: str, runs: Mapping[int, dict[str, Any]], seeds: int) -> dict[str, Any]:
    """What is to be told of an arm apart from its effect."""
    recipe = BASELINE if arm == CONTROL else arm
    done = [found for found in runs.values() if found["status"] == "done"]
    finals = [found["final"] for found in done]
    spent = {name: _known_mean([found["spent"].get(name) for found in done]) for name in COLUMNS}
    memory = {
        kind: mean([found["memory"].get(kind, 0.0) for found in done])
        for kind in dict.fromkeys(kind for found in done for kind in found["memory"])
    }
    peak = max((found["peak_memory"] or 0.0 for found in done), default=0.0)
    tried = course.tuned.get(recipe, {})
    tuning_trials = (
        [found for trial in course.tuning_trials.get(recipe, []) if (found := store.result(trial)) is not None] if arm != CONTROL else []
    )
    return {
        "about": race.entrants[recipe].arm.about,
        "command": race.entrants[recipe].arm.command is not None,
        "finals": {str(race.section.first_seed + index): found["final"] for index, found in runs.items()},
        "mean": math.exp(mean([math.log(value) for value in finals])) if finals and min(finals) > 0 else None,
        "runs": len(runs),
        "failed": [[index, found["reason"]] for index, found in runs.items() if found["status"] != "done"],
        "stopped": course.out.get(arm),
        "factor": course.factors.get(recipe, 1.0),
        "tuned": sorted([factor, value] for factor, value in tried.items()),
        "edge": at_the_edge(tried),
        "spent": spent,
        "off_budget": _off(race, recipe, runs),
        "tuning": {name: sum(found["spent"].get(name) or 0.0 for found in tuning_trials) for name in COLUMNS}
        | {"trials": len(tuning_trials)},
        "memory": memory,
        "peak_memory": peak,
        "costs": spent | {"peak_memory": peak},
        "time": _averaged(done, "time"),
        "flops": _averaged(done, "flops"),
        "parameters": next((found["parameters"] for found in done if found.get("parameters")), None),
        "restarts": sum(found.get("restarts") or 0 for found in runs.values()),
        "commits": sorted({found["commit"] for found in (*runs.values(), *tuning_trials) if found.get("commit")}),
        "curve": _mean_curve(done),
        "curves": [found["curve"] for found in done],
        "declared": any(found.get("declared") for found in done),
    }


def _known_mean(values: list[float | None]) -> float | None:
    """The mean where all runs have the number (older ones lack some), else None."""
    return mean([value for value in values if value is not None]) if values and None not in values else None


def _side_by_side(race: Race, store: Store, course: Course, results: Results, arms: dict[str, dict[str, Any]]) -> None:
    """Mark the arms whose trials ran beside the baseline's, seed by seed; the baseline where some arm's did."""
    spans = {
        arm: {index: span(store.attempts(trial)) for index, trial in course.trials[arm].items() if index in runs}
        for arm, runs in results.items()
    }
    base = spans[BASELINE]
    for arm, found in spans.items():
        shared = sorted(base.keys() & found.keys())
        arms[arm]["side_by_side"] = arm != BASELINE and all_together([(base[index], found[index]) for index in shared], len(arms))
    arms[BASELINE]["side_by_side"] = any(arms[arm]["side_by_side"] for arm in race.contenders)


def _averaged(done: list[dict[str, Any]], key: str) -> dict[str, float]:
    names = dict.fromkeys(name for found in done for name in found[key])
    return {name: mean([found[key].get(name, 0.0) for found in done]) for name in names}


def _off(race: Race, arm: str, runs: Mapping[int, dict[str, Any]]) -> dict[str, float]:
    """By how much runs missed the budget, of those that missed it by more than the tolerance; and memory above the cap."""
    budget, missed = race.section.budget, {}
    for index, found in runs.items():
        if found["status"] != "done":
            continue
        spent = found["spent"].get(budget.unit)
        if spent is None or abs(spent / budget.value - 1) > TOLERANCE:
            missed[f"seed {race.section.first_seed + index}"] = (spent or 0.0) / budget.value - 1
        shares = stage_shares(race.entrants[arm], budget) if race.entrants[arm].arm.command is None else []
        for number, (share, stage) in enumerate(zip(shares, found.get("stages", []))):
            if len(shares) > 1 and budget.unit in stage and abs(stage[budget.unit] - share * budget.value) > TOLERANCE * budget.value:
                missed[f"seed {race.section.first_seed + index}, stage {number}"] = stage[budget.unit] / (share * budget.value) - 1
        if race.section.memory is not None and found["peak_memory"] > race.section.memory.value * (1 + TOLERANCE):
            missed[f"memory, seed {race.section.first_seed + index}"] = found["peak_memory"] / race.section.memory.value - 1
    return missed


def _mean_curve(done: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Mean over seeds, evaluation by evaluation, of those that all runs have."""
    if not done:
        return {}
    count = min(len(found["curve"]["value"]) for found in done)
    columns: dict[str, list[float | None]] = {}
    for name in ("value", *COSTS):
        columns[name] = []
        for place in range(count):
            found = [run["curve"][name][place] for run in done]
            columns[name].append(mean(found) if all(value is not None and math.isfinite(value) for value in found) else None)
    return columns


def _effects(
    race: Race, course: Course, values: Mapping[str, Mapping[int, float]], arms: Mapping[str, dict[str, Any]], at: float
) -> dict[str, tuple[str, Effect | None]]:
    """Verdict and effect of every contender, and of the control, which is compared alone. at: the level of this look."""
    section = race.section
    judged: dict[str, tuple[str, Effect | None]] = {}
    level = level_at_end(at, section.early_stopping)
    pilot = section.pilot if section.seeds == "auto" else None
    pairs = {arm: differences(values[BASELINE], values[arm]) for arm in race.contenders if not arms[arm]["failed"]}
    going_on = {arm: found for arm, found in pairs.items() if arm not in course.out}
    found = effects(going_on, level, compared=len(race.contenders), pilot=pilot)
    for arm in race.contenders:
        if arms[arm]["failed"] or arms[BASELINE]["failed"]:
            judged[arm] = ("failed", None)
        elif arms[arm]["off_budget"] or arms[BASELINE]["off_budget"]:
            judged[arm] = ("off budget", found.get(arm))
        elif arm in course.out:
            judged[arm] = ("worse", effects({arm: pairs[arm]}, level, compared=len(race.contenders))[arm])
        else:
            judged[arm] = (word(found[arm], section.margin, level), found[arm])
    if CONTROL in values and not arms[CONTROL]["failed"] and not arms[BASELINE]["failed"]:
        alone = effects({CONTROL: differences(values[BASELINE], values[CONTROL])}, at, pilot=pilot)[CONTROL]
        judged[CONTROL] = (word(alone, section.margin, at), alone)
    return judged


def _shown(effect: Effect) -> dict[str, Any]:
    """An effect as shares of the metric: -0.01 is 1 % lower."""
    percent = {
        key: math.expm1(value) if math.isfinite(value) and value < 700 else None
        for key, value in effect.as_dict().items()
        if key in ("mean", "low", "high", "inner_low", "inner_high")
    }
    return percent | {
        "n": effect.n,
        "sd": effect.sd if math.isfinite(effect.sd) else None,
        "p": effect.p,
        "adjusted": effect.adjusted,
        "sign_flip": effect.sign_flip,
    }


def _targets(race: Race, results: Results, arms: dict[str, dict[str, Any]], target: float, level: float) -> None:
    """Cost to the target in every currency, for every arm; in wall-clock for those that ran beside the baseline."""
    for cost in COSTS:
        reached = {
            arm: {index: at for index, found in runs.items() if (at := reach(found["curve"], cost, target)) is not None}
            for arm, runs in results.items()
            if cost != "seconds" or arms[arm]["side_by_side"]
        }
        for arm, found in arms.items():
            found.setdefault("to_target", {})[cost] = cost_to_target(
                reached.get(BASELINE, {}), reached.get(arm, {}), level, max(1, len(race.contenders))
            )


def _paired(race: Race, results: Results, arms: dict[str, dict[str, Any]], level: float) -> None:
    """What a run costs in ways that vary from run to run: by seed, and its ratio to the baseline's with the interval over pairs."""
    for cost in ("seconds", "peak_memory"):
        known = {
            arm: {
                index: (float(value), True)
                for index, found in runs.items()
                if found["status"] == "done" and (value := found["spent"].get(cost) if cost == "seconds" else found["peak_memory"])
            }
            for arm, runs in results.items()
        }
        for arm, found in arms.items():
            ratio = cost_to_target(known[BASELINE], known[arm], level, max(1, len(race.contenders)))
            found.setdefault("paired", {})[cost] = {key: ratio[key] for key in ("ratio", "low", "high")} | {
                "by_seed": {str(race.section.first_seed + index): value for index, (value, _) in known[arm].items()}
            }


def _recommend(race: Race, judged: Mapping[str, tuple[str, Effect | None]], seeds: int, standing: Standing) -> dict[str, Any]:
    """Seeds for the wanted resolution, from the noisiest contender; what the seeds there are resolve; and the level at which the wanted
    seeds would be judged, if they are more: that would be another look."""
    noise = [
        (effect.sd, effect.n) for arm, (_, effect) in judged.items() if effect is not None and arm != CONTROL and math.isfinite(effect.sd)
    ]
    if not noise:
        return {"resolution": race.section.resolution, "seeds": None, "resolves": None, "sd": None, "level": None}
    sd, count = max(noise)
    pilot = race.section.pilot if race.section.seeds == "auto" else count
    contenders, level = len(race.contenders), standing.now.level
    resolves = resolution_at(seeds, sd, pilot, contenders=contenders, level=level)
    wanted = seeds_for(race.section.resolution, sd, pilot, contenders=contenders, level=level)
    if wanted is None or wanted > seeds:
        level = following([*standing.earlier, standing.now], wanted or MOST, planned=race.section.looks, contenders=contenders).level
        wanted = seeds_for(race.section.resolution, sd, pilot, contenders=contenders, level=level)
    return {
        "resolution": race.section.resolution,
        "seeds": wanted,
        "sd": sd,
        "resolves": resolves if math.isfinite(resolves) else None,
        "level": level,
    }


def look_notes(standing: Standing) -> list[str]:
    """What a reader must know of the looks before this one."""
    if not standing.before:
        return []
    return [
        f"looked at before, at {counted(standing.before)} seeds: this verdict is judged at {100 * standing.now.level:.2g} % instead of 5 %, "
        "so that all looks together stay honest"
    ]


def front(points: Mapping[str, tuple[float | None, float | None]]) -> list[str]:
    """The arms that no other arm beats in both metric and cost."""
    known = {
        arm: (metric, cost)
        for arm, (metric, cost) in points.items()
        if metric is not None and cost is not None and math.isfinite(metric) and math.isfinite(cost)
    }
    return [
        arm
        for arm, (metric, cost) in known.items()
        if not any(other[0] <= metric and other[1] <= cost and other != (metric, cost) for other in known.values())
    ]


def _notes(race: Race, arms: Mapping[str, dict[str, Any]], commits: list[str]) -> list[str]:
    """What a reader must know before believing the table."""
    found = []
    base = arms[BASELINE]
    for arm, one in arms.items():
        found += [f"{arm}: seed {race.section.first_seed + index} failed: {reason}" for index, reason in one["failed"]]
        if one["off_budget"]:
            found.append(
                f"{arm}: off the stated budget: "
                + "; ".join(f"{where} by {off:+.1%}" for where, off in list(one["off_budget"].items())[:4])
            )
        if one["edge"] and arm != CONTROL:
            found.append(
                f"{arm}: the best multiplier, {one['factor']:g}, lies at the edge of those tried: the tuning allowance is too small for it"
            )
        if one["stopped"]:
            found.append(
                f"{arm}: stopped early, after {one['stopped']} seeds, because it was clearly worse; its interval is of these seeds"
            )
        ours, theirs = (side["spent"] for side in (base, one))
        if arm not in (BASELINE, CONTROL) and not one["side_by_side"]:
            found.append(
                f"{arm}: its trials did not run beside the baseline's, so the load of the machine differed: wall-clock is not compared, "
                "reference time is"
            )
        # Processor time does not depend on load, but only newer trials have it, and those of an accelerator tell nothing by it.
        clock = "seconds" if one["side_by_side"] else "cpu_seconds"
        if arm != BASELINE and all(
            isinstance(side.get(name), float) and side[name] > 0 for side in (ours, theirs) for name in (clock, "reference_seconds")
        ):
            ratio = (theirs[clock] / ours[clock]) / (theirs["reference_seconds"] / ours["reference_seconds"])
            if not 0.8 <= ratio <= 1.25:
                kind = "wall-clock" if clock == "seconds" else "processor time"
                found.append(f"{arm}: takes {ratio:.2f} times the {kind} that its FLOPs and bytes explain, next to the baseline")
    if len(commits) > 1:
        found.append(f"its runs are of {len(commits)} versions of the code ({', '.join(commits)}): a difference may be one between those")
    control = arms.get(CONTROL, {})
    if control.get("verdict") in ("better", "worse"):
        found.append(
            "the control, which is the baseline with other seeds, came out as a difference: one race in twenty does that; more seeds, or a look at the runs, before the others are believed"
        )
    return found
