"""Running a race to its verdict: look at the arms, run what is missing, judge, write the page, the verdict and a line of results."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..build.session import commit
from ..core.amounts import duration
from ..core.errors import Problem, UserError
from ..core.limits import cores
from ..core.recipe import digest
from ..core.version import installed_version
from ..ledger.ledger import plain
from .arms import check_arms, coarse_budgets, trial_tree
from .course import Course, survey_course
from .looks import pair_keys, take
from .outlook import RUNNING, tell_outlook
from .page import write_page
from .pool import Pool, Processes
from .reference import calibrate
from .running import Say, run_waiting, survey_error
from .spec import BASELINE, CONTROL, Race
from .statistics import student
from .trials import Store, Trial, read_json, read_lines, write_whole
from .verdict import judge


def default_jobs(race: Race) -> int:
    """Trials at once: one where seconds are the budget, since trials would take them from each other; else a core each."""
    wanted = race.section.parallel
    return wanted if isinstance(wanted, int) else 1 if race.section.budget.unit == "seconds" else cores()


def conduct(
    race: Race,
    *,
    folder: str | Path = "runs/races",
    results: str | Path | None = "results",
    jobs: int | None = None,
    pool: Pool | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Run the race, or what is left of it, and return its verdict as plain data. A pool that is given stays open. Raises UserError and
    RunError."""
    student()  # scipy is wanted at the end: better to know now
    notes = check_arms(race)
    folder = Path(folder)
    place, store = folder / race.name, Store(folder)
    place.mkdir(parents=True, exist_ok=True)
    own = pool is None
    pool = pool or Processes(jobs or default_jobs(race))
    try:
        found = surveys(race, folder, pool, forecast=race.section.budget.unit in ("flops", "seconds"), lenient=True)
        notes += refuse_unfit(race, found)
        identities = {arm: one["identities"] for arm, one in found.items()}
        rates = _rates(place)
        course = _run(race, store, identities, pool, folder, say)
    finally:
        if own:
            pool.close()
    section = race.section
    keys = pair_keys(course.trials, BASELINE, race.contenders)
    seeds = course.seeds or section.pilot
    standing = take(folder, keys, seeds, planned=section.looks, piloted=section.seeds == "auto" and seeds > section.pilot)
    verdict = judge(race, store, course, notes=notes, standing=standing)
    verdict |= {
        "machine_rates": rates,
        "commit": ", ".join(verdict["commits"]) or commit(),
        "version": installed_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "identity": race.identity,
        "jobs": pool.size,
        "folder": str(place),
    }
    verdict = dict(plain(verdict))
    write_whole(place / "verdict.json", verdict)
    write_page(verdict, place / "race.html")
    if results is not None:
        append_result(Path(results) / f"{race.name}.jsonl", verdict)
    return verdict


def refuse_unfit(race: Race, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Notes on what could not be checked. Raises UserError, before anything is spent, for budgets that steps are too coarse for and for
    programs that cannot be given the baseline's rows."""
    problems = coarse_budgets(race, {arm: one["stages"] for arm, one in found.items() if one.get("stages")})
    fields = found.get(BASELINE, {}).get("fields", ["tokens"])
    if "tokens" not in fields:
        problems += [
            Problem(f"contenders.{arm}", f"a command is given rows of tokens, and the baseline's rows hold {', '.join(fields)}")
            for arm in race.contenders
            if race.entrants[arm].arm.command is not None
        ]
    if problems:
        raise UserError(problems)
    return [
        f"{arm}: whether its budget is a whole number of steps could not be told beforehand: {one['unplanned']}"
        for arm, one in found.items()
        if "unplanned" in one
    ]


def surveys(race: Race, folder: Path, pool: Pool, *, forecast: bool = False, lenient: bool = False) -> dict[str, dict[str, Any]]:
    """Prepare every arm's data and look at it; with `forecast`, also what a trial will take (lenient: where that can be told). Raises
    UserError for what cannot be read, RunError where a worker died."""
    places: dict[Path, str] = {}
    for arm, entrant in race.entrants.items():
        if entrant.arm.command is not None:
            continue
        seed = race.section.first_seed
        what = {"recipe": trial_tree(race, arm, seed=seed), "shared": trial_tree(race, BASELINE, seed=seed)}
        (folder / "surveys").mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f"{arm}-", dir=folder / "surveys")).resolve()
        write_whole(
            place / "trial.json",
            {"kind": "survey", "arm": arm, "what": what, "cwd": os.getcwd(), "forecast": forecast, "lenient": lenient},
        )
        places[place] = arm
    waiting, running = list(places), 0
    while waiting or running:
        while waiting and running < pool.size:
            pool.start(waiting.pop(0))
            running += 1
        for place, status in pool.wait():
            if place not in places:
                continue  # of an earlier race with the same pool
            running -= 1
            if status:
                raise survey_error(place, status, places[place])
    found = {arm: read_json(place / "survey.json") or {} for place, arm in places.items()}
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
    return found


def _run(race: Race, store: Store, identities: dict[str, Any], pool: Pool, folder: Path, say: Say) -> Course:
    """Start what is waiting until nothing is."""
    began, conducted, before = time.monotonic(), uuid.uuid4().hex[:12], done_trials(survey_course(race, store, identities), store)
    ended = run_waiting(
        lambda: survey_course(race, store, identities).waiting,
        lambda trial: _prepare(race, store, trial, folder, conducted).resolve(),
        store,
        pool,
        say,
        lambda running: tell_outlook(race, store, survey_course(race, store, identities), running, folder / race.name, say),
    )
    for done, (trial, result) in enumerate(ended, 1):
        tell(trial, result, survey_course(race, store, identities).expected, before + done, (time.monotonic() - began) / done, say)
    (folder / race.name / RUNNING).unlink(missing_ok=True)
    return survey_course(race, store, identities)


def tell(trial: Trial, result: dict[str, Any], expected: int, ready: int, pace: float, say: Say) -> None:
    """A progress line: how many trials are done, what this one gave, and when the rest will be."""
    outcome = (
        f"{result['metric'].replace('_', ' ')} {result['final']:.4f}"
        if result["status"] == "done" and result["final"] is not None
        else f"failed: {result['reason']}"
    )
    left = f"; about {duration(pace * (expected - ready))} left" if ready < expected else ""
    say(f"{ready}/{expected}  {trial.label}: {outcome}, {duration(result['spent']['seconds'])}{left}")


def done_trials(course: Course, store: Store) -> int:
    """How many of a course's trials have a result."""
    counted = [one for trials in course.tuning_trials.values() for one in trials] + [
        one for runs in course.trials.values() for one in runs.values()
    ]
    return sum(store.result(one) is not None for one in counted)


def _prepare(race: Race, store: Store, trial: Trial, folder: Path, conducted: str) -> Path:
    """The trial's folder with all it needs; a program is given the baseline's rows. conducted: what tells this conduct from others."""
    from .command_arm import export_rows

    extra: dict[str, Any] = {"cwd": os.getcwd(), "metric": race.section.metric, "conduct": conducted}
    place = store.write(trial, extra)
    if "command" not in trial.what:
        return place
    rows = folder / "rows" / digest([trial.what["rows_of"], trial.what["identity"]])[:20]
    if not (rows / "rows" / "data.json").exists():
        rows.mkdir(parents=True, exist_ok=True)
        export = {
            "kind": "export",
            "arm": trial.arm,
            "what": {"recipe": trial.what["rows_of"]},
            "cwd": os.getcwd(),
            "rows": rows_wanted(race),
        }
        write_whole(rows / "trial.json", export)
        here = os.getcwd()
        try:
            export_rows(rows.resolve(), export, 1)
        finally:
            os.chdir(here)
    what = trial.what | {"data": str((rows / "rows").resolve())}
    write_whole(
        place / "trial.json",
        {"kind": "command", "arm": trial.arm, "purpose": trial.purpose, "seed": trial.seed, "factor": trial.factor, "what": what} | extra,
    )
    return place


def rows_wanted(race: Race) -> int:
    """How many rows of training data a program is given: the budget's, or all of an epoch where the budget does not count them."""
    budget = race.section.budget
    sequence = int(race.entrants[BASELINE].tree["data"].get("sequence", 512))
    return {"tokens": int(budget.value / sequence) + 1, "rows": int(budget.value)}.get(budget.unit, 10**9)


def _rates(place: Path) -> dict[str, Any]:
    """This machine's calibrated rates, measured once per race folder."""
    kept = read_json(place / "rates.json")
    if kept is None:
        kept = calibrate().as_dict()
        write_whole(place / "rates.json", kept)
    return kept


def append_result(path: Path, verdict: dict[str, Any]) -> None:
    """A line for the race, unless the last line of the same race says the same."""
    line = {
        key: verdict[key]
        for key in (
            "race",
            "sentence",
            "time",
            "commit",
            "version",
            "identity",
            "budget",
            "metric",
            "seeds",
            "margin",
            "looks",
            "machine",
            "jobs",
        )
    }
    line["arms"] = {
        name: {key: arm[key] for key in ("verdict", "effect", "mean", "spent", "tuning", "factor", "peak_memory") if key in arm}
        for name, arm in verdict["arms"].items()
    }
    before = [one for one in read_lines(path) if one.get("identity") == line["identity"]]
    if before and before[-1].get("arms") == json.loads(json.dumps(line["arms"])):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def forecast(race: Race, *, folder: str | Path = "runs/races", jobs: int | None = None) -> dict[str, Any]:
    """What the race would run and take: trials by arm, how many are done, seconds by the plan of each arm on an idle machine."""
    notes = check_arms(race)
    folder = Path(folder)
    pool = Processes(jobs or default_jobs(race))
    try:
        found = surveys(race, folder, pool, forecast=True)
        notes += refuse_unfit(race, found)
    finally:
        pool.close()
    store = Store(folder)
    course = survey_course(race, store, {arm: one["identities"] for arm, one in found.items()})
    section = race.section
    seeds = course.seeds or section.pilot
    arms, total = {}, 0.0
    for arm in race.entrants:
        plan = found.get(arm, {})
        tuning = section.tuning.trials if section.tuning.trials > 1 else 0
        done = sum(store.result(trial) is not None for trial in [*course.tuning_trials.get(arm, []), *course.trials.get(arm, {}).values()])
        count = tuning + seeds
        seconds = section.budget.value if section.budget.unit == "seconds" else plan.get("seconds")
        arms[arm] = {"trials": count, "done": done, "seconds": seconds, "flops": plan.get("flops"), "parameters": plan.get("parameters")}
        total = math.nan if seconds is None else total + seconds * ((tuning * section.tuning.budget) + seeds) * max(0.0, 1 - done / count)
    if section.control:
        done = sum(store.result(trial) is not None for trial in course.trials.get(CONTROL, {}).values())
        arms[CONTROL] = arms[BASELINE] | {"trials": seeds, "done": done}
        total += (arms[BASELINE]["seconds"] or math.nan) * (seeds - done)
    return {
        "race": race.name,
        "arms": arms,
        "trials": sum(one["trials"] for one in arms.values()),
        "done": sum(one["done"] for one in arms.values()),
        "jobs": pool.size,
        "seconds": total / pool.size if math.isfinite(total) else None,
        "notes": notes,
    }
