"""Race methods under one budget: contenders against a baseline, paired by seed.

Trials run in parallel, are never run twice, and go on after a kill: the same command again. Everything about the race is in its file
(docs/race.md); key=value changes it. Written: FOLDER/NAME/race.html, verdict.json, and a line in RESULTS/NAME.jsonl.

$ ingot race races/relu2_gelu.yaml --dry-run
$ ingot race races/relu2_gelu.yaml seeds=3 'budget=1M tokens' --jobs 2
$ ingot race races/relu2_gelu.yaml --tiny --json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..core.amounts import count, duration
from ._output import Output

STARTS = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("race", metavar="RACE.yaml", help="a race file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it, such as seeds=3 or 'budget=5 min'")
    parser.add_argument("--tiny", action="store_true", help="the tiny twins of the recipes and of the race: shows only that it runs")
    parser.add_argument("--jobs", type=int, metavar="N", help="trials at once (default: a core each; one where seconds are the budget)")
    parser.add_argument("--dry-run", action="store_true", help="show the trials and what they would take; run none")
    parser.add_argument("--folder", default="runs/races", metavar="DIR", help="where races and trials lie (default: runs/races)")
    parser.add_argument("--results", default="results", metavar="DIR", help="where the line of results goes (default: results)")
    parser.add_argument("--cluster", metavar="ADDRESS", help="run the trials on a Ray cluster, such as 'auto'")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError
    from ..race.conduct import conduct
    from ..race.pool import Cluster
    from ..race.spec import read_race

    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError("--jobs wants at least 1")
    race = read_race(arguments.race, arguments.overrides, tiny=arguments.tiny)
    if arguments.dry_run:
        return dry_run(race, arguments, output)
    pool = Cluster(arguments.cluster, arguments.jobs) if arguments.cluster else None
    try:
        verdict = conduct(race, folder=arguments.folder, results=arguments.results, jobs=arguments.jobs, pool=pool, say=output.note)
    finally:
        if pool is not None:
            pool.close()
    tell(verdict, output)
    output.result(
        {
            key: verdict[key]
            for key in ("race", "sentence", "seeds", "budget", "metric", "recommend", "notes", "looks", "level", "folder", "identity")
        }
        | {
            "arms": {
                name: {
                    key: arm.get(key)
                    for key in ("verdict", "effect", "mean", "finals", "spent", "tuning", "factor", "peak_memory", "to_target")
                }
                for name, arm in verdict["arms"].items()
            }
        }
    )
    return 0


def tell(verdict: dict[str, Any], output: Output) -> None:
    """The verdicts as a table, the sentence, and where the rest is."""
    from ..race.words import confidence, metric_words, percent, span

    rows = []
    for name, arm in verdict["arms"].items():
        effect = arm.get("effect")
        mean = "–" if arm["mean"] is None else f"{arm['mean']:.4f}"
        rows.append((name, arm.get("verdict", ""), mean, percent(effect["mean"], True) if effect else "", span(effect) if effect else ""))
    output.print("")
    output.table(("arm", "verdict", metric_words(verdict["metric"]), "effect", f"{confidence(verdict)} interval"), rows, words=2)
    output.print("", verdict["sentence"], *(f"note: {note}" for note in verdict["notes"]))
    advice = verdict["recommend"]
    if advice["sd"] is not None:
        wanted = f"{advice['seeds']} seeds" if advice["seeds"] else "more than 12 seeds"
        again = f", judged at {100 * advice['level']:.2g} % then" if advice["level"] != verdict["level"] else ""
        output.print(f"to resolve {percent(advice['resolution'])} this noise wants {wanted}{again}")
    output.print(f"page: {Path(verdict['folder']) / 'race.html'}")


def dry_run(race: Any, arguments: argparse.Namespace, output: Output) -> int:
    """Every trial, done or to do, and a forecast."""
    from ..race.conduct import forecast

    answer = forecast(race, folder=arguments.folder, jobs=arguments.jobs)
    output.print(f"{race.name}: {budget_line(race)}")
    rows = [
        (
            name,
            f"{one['trials']}",
            f"{one['done']}",
            count(one["parameters"]) if one["parameters"] else "–",
            count(one["flops"], "FLOP") if one["flops"] else "–",
            duration(one["seconds"]) if one["seconds"] else "unknown",
        )
        for name, one in answer["arms"].items()
    ]
    output.table(("arm", "trials", "done", "parameters", "FLOPs a trial", "a trial"), rows)
    output.print(*(f"note: {note}" for note in answer["notes"]))
    known = duration(answer["seconds"]) if answer["seconds"] is not None else "unknown"
    output.print(f"{answer['trials']} trials, {answer['done']} done; about {known} with {answer['jobs']} at once; nothing was started")
    output.result(answer)
    return 0


def budget_line(race: Any) -> str:
    from ..race.words import budget_words

    section = race.section
    seeds = f"seeds after a pilot of {section.pilot}" if section.seeds == "auto" else f"{section.seeds} seeds"
    return f"{budget_words(str(section.budget))} for every arm, {seeds}" + (
        f", {section.tuning.trials} tuning trials an arm" if section.tuning.trials > 1 else ""
    )
