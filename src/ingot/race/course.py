"""What a race still has to run, from what has been run: pure functions of results, so that a killed race goes on where it was.

Order: tuning, then seed by seed through all arms, so that what the machine does in the meantime hits all arms alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .arms import trial_tree
from .recommend import seeds_for
from .spec import BASELINE, CONTROL, Race, part_of
from .statistics import LEVEL, deviation
from .stopping import stopped
from .trials import Store, Trial, make_trial
from .tune import best_factor, next_factors

TUNING_SEED = 7919  # added to the first seed: not among those raced
CONTROL_SEED = 104729


@dataclass
class Course:
    """Where a race stands. waiting: trials to run now, in order. factors: the multiplier chosen for each arm, once it is tuned.
    tuned: per arm multiplier -> metric. seeds: how many the race has, None until a pilot has told. out: arm -> seeds after which it
    stopped. finished: trials that the verdict reads, by arm and seed; control among the arms."""

    waiting: list[Trial] = field(default_factory=list)
    factors: dict[str, float] = field(default_factory=dict)
    tuned: dict[str, dict[float, float | None]] = field(default_factory=dict)
    tuning_trials: dict[str, list[Trial]] = field(default_factory=dict)
    seeds: int | None = None
    out: dict[str, int] = field(default_factory=dict)
    trials: dict[str, dict[int, Trial]] = field(default_factory=dict)
    expected: int = 0  # trials in all, as far as is known


def survey_course(race: Race, store: Store, identities: Mapping[str, Any]) -> Course:
    """Everything that is done and everything that can be run now. identities: of the arms' data, which enter the trials' keys."""
    course = Course()
    make = _maker(race, identities)
    for arm in race.entrants:  # the baseline first
        _tuning(race, store, course, arm, make)
        if arm == BASELINE:
            store.metric = _settled(race, store, course, make)
    metric: Callable[[Trial], float | None] = lambda trial: final(store.result(trial))  # noqa: E731
    course.seeds = _seeds(race, course, make, metric)
    count = course.seeds or race.section.pilot
    for index in range(count):
        for arm in [*race.entrants, *([CONTROL] * race.section.control)]:
            _final(race, store, course, arm, index, make, metric)
    tuning = race.section.tuning.trials if race.section.tuning.trials > 1 else 0
    dropped = sum(count - len(course.trials[arm]) for arm in course.out)
    course.expected = len(race.entrants) * tuning + (len(race.entrants) + race.section.control) * count - dropped
    return course


def final(result: dict[str, Any] | None) -> float | None:
    """A result's metric; infinite where the run failed, None where there is no result."""
    if result is None:
        return None
    value = result["final"]
    return math.inf if result["status"] != "done" or value is None or not 0 < value < math.inf else float(value)


Maker = Callable[..., Trial]


def _maker(race: Race, identities: Mapping[str, Any]) -> Maker:
    """make(arm, purpose, seed, factor, share): the trial, with all that decides its result in `what`."""
    section = race.section

    def make(arm: str, purpose: str, seed: int, factor: float, share: float = 1.0) -> Trial:
        entrant = race.entrants[arm]
        shared = trial_tree(race, BASELINE, seed=seed, share=share)
        if entrant.arm.command is not None:
            what = {
                "command": entrant.arm.command,
                "seed": seed,
                "factor": factor,
                "budget": str(part_of(section.budget, share)),
                "evaluations": section.evaluations,
                "metric": section.metric,
                "rows_of": shared,
                "identity": identities.get(BASELINE),
            } | ({"files": entrant.files} if entrant.files else {})
        else:
            what = {
                "recipe": trial_tree(race, arm, seed=seed, factor=factor, share=share),
                "shared": {key: shared[key] for key in shared},
                "metric": section.metric,
                "identity": [identities.get(arm), identities.get(BASELINE)],
            }
        return make_trial(arm, purpose, seed, factor, what)

    return make


def _tuning(race: Race, store: Store, course: Course, arm: str, make: Maker) -> None:
    """Follow the arm's search through its results; what it wants next is waiting."""
    tuning = race.section.tuning
    tried: dict[float, float | None] = {}
    course.tuned[arm], course.tuning_trials[arm] = tried, []
    while factors := next_factors(tuning, tried):
        trials = [make(arm, "tune", race.section.first_seed + TUNING_SEED, factor, tuning.budget) for factor in factors]
        course.tuning_trials[arm] += trials
        missing = [trial for trial in trials if store.result(trial) is None]
        if missing:
            course.waiting += missing
            return
        for trial in trials:
            value = final(store.result(trial))
            tried[trial.factor] = None if value is None or math.isinf(value) else value
    course.factors[arm] = best_factor(tried) if tried else 1.0


def _settled(race: Race, store: Store, course: Course, make: Maker) -> str | None:
    """The metric that all arms are held to: the race file's, or the one that the baseline's trials have; None before one is done."""
    section = race.section
    if section.metric != "auto":
        return section.metric
    trials = list(course.tuning_trials[BASELINE])
    if BASELINE in course.factors:
        seeds = section.pilot if section.seeds == "auto" else int(section.seeds)
        trials += [make(BASELINE, "race", section.first_seed + index, course.factors[BASELINE]) for index in range(seeds)]
    store.metric = None
    found = (store.result(trial) for trial in trials)
    return next((result["metric"] for result in found if result is not None and result["status"] == "done"), None)


def _seeds(race: Race, course: Course, make: Maker, metric: Callable[[Trial], float | None]) -> int | None:
    """The number of seeds: stated, or what the pilot recommends once it is complete (the pilot's own number where more than 12 would be
    needed, or an arm failed); None before."""
    section = race.section
    if section.seeds != "auto":
        return int(section.seeds)
    if course.factors.keys() != race.entrants.keys():
        return None
    noise = 0.0
    for arm in race.contenders:
        found = []
        for index in range(section.pilot):
            seed = section.first_seed + index
            ours, theirs = (metric(make(name, "race", seed, course.factors[name])) for name in (BASELINE, arm))
            if ours is None or theirs is None:
                return None
            found.append(math.log(theirs) - math.log(ours) if math.isfinite(ours + theirs) else math.nan)
        noise = max(noise, deviation(found)) if all(map(math.isfinite, found)) else math.inf
    wanted = seeds_for(section.resolution, noise, section.pilot, contenders=len(race.contenders), level=LEVEL / section.looks)
    return section.pilot if wanted is None else max(wanted, section.pilot)


def _final(race: Race, store: Store, course: Course, arm: str, index: int, make: Maker, metric: Callable[[Trial], float | None]) -> None:
    """The arm's run with this seed: counted, waiting, or out of the race."""
    section = race.section
    runs = course.trials.setdefault(arm, {})
    recipe, seed = (BASELINE, section.first_seed + CONTROL_SEED + index) if arm == CONTROL else (arm, section.first_seed + index)
    if recipe not in course.factors:
        return
    if section.early_stopping and arm in race.contenders and arm not in course.out:
        known = [course.trials[BASELINE].get(place) for place in range(index)], [runs.get(place) for place in range(index)]
        values = [(metric(ours), metric(theirs)) for ours, theirs in zip(*known) if ours is not None and theirs is not None]
        if len(values) == index and all(a is not None and b is not None and math.isfinite(a + b) for a, b in values):
            at = stopped(
                [math.log(b) - math.log(a) for a, b in values],
                course.seeds or section.pilot,
                contenders=len(race.contenders),
                level=LEVEL / section.looks,
            )
            if at is not None:
                course.out[arm] = at
    if arm in course.out:
        return
    trial = runs[index] = make(recipe, "control" if arm == CONTROL else "race", seed, course.factors[recipe])
    if store.result(trial) is None:
        course.waiting.append(trial)
