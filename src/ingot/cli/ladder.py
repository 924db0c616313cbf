"""Climb a ladder of small recipes, fit a law, and predict the largest from the others.

Runs are parallel, never repeated, and go on after a kill: the same command again. The ladder's file says everything (docs/scaling.md);
key=value changes it. Written to FOLDER/NAME: points.csv, fit.json (for 'ingot predict' and 'ingot plan --fit'), ladder.json, ladder.html.

$ ingot ladder ladders/text.yaml --dry-run
$ ingot ladder ladders/text.yaml --jobs 2
$ ingot ladder ladders/text.yaml --tiny --json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..core.amounts import count, duration
from ._output import Output

STARTS = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ladder", metavar="LADDER.yaml", help="a ladder file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it, such as seeds=3 or tokens_per_parameter=20")
    parser.add_argument("--tiny", action="store_true", help="the tiny twins of the recipe and of the ladder: shows only that it runs")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: a core each)")
    parser.add_argument("--dry-run", action="store_true", help="show the runs; start none")
    parser.add_argument("--folder", default="runs/ladders", metavar="DIR", help="where ladders and their runs lie (default: runs/ladders)")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError
    from ..race.ladder import climb, forecast, read_ladder

    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError("--jobs wants at least 1")
    ladder = read_ladder(arguments.ladder, arguments.overrides, tiny=arguments.tiny)
    if arguments.dry_run:
        rungs = list(forecast(ladder))
        output.table(
            ("size", "parameters", "not embedding", "tokens", "about FLOPs", ""),
            [
                (
                    ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in one["sizes"].items()),
                    count(one["params"]),
                    count(one["params_non_embedding"]),
                    count(one["tokens"]),
                    count(one["flop"], "FLOP"),
                    "held out" if one["held_out"] else "",
                )
                for one in rungs
            ],
        )
        output.print(
            f"{sum(one['runs'] for one in rungs)} runs, about {count(sum(one['runs'] * one['flop'] for one in rungs), 'FLOP')}; nothing was started"
        )
        output.result({"ladder": ladder.name, "rungs": rungs})
        return 0
    answer = climb(ladder, folder=arguments.folder, jobs=arguments.jobs, say=output.note)
    answer["page"] = str(_page(Path(answer["folder"]), ladder.name))
    tell(answer, output)
    output.result(answer)
    return 0


def _page(folder: Path, name: str) -> Path:
    from ..race.fit_page import write_fit_page
    from ..scaling import Fit
    from ..scaling.table import read, take

    points = read(folder / "points.csv")
    return write_fit_page(
        {"": Fit.load(folder / "fit_without_largest.json")},
        folder / "ladder.html",
        title=f"{name}: ladder",
        held={"": take(points, points["held_out"] > 0)},
    )


def tell(answer: dict[str, Any], output: Output) -> None:
    """The fit, what it said of the held-out runs, and where the rest is."""
    output.print(
        "",
        f"{answer['law']}: {answer['points']} runs of {answer['sizes']} sizes over {answer['decades']:.1f} decades of compute, {duration(answer['training_seconds'])} of training",
    )
    rows = [
        (name, f"{value:.5g}", " to ".join(f"{end:.4g}" for end in answer["intervals"].get(name, ())))
        for name, value in answer["estimates"].items()
    ]
    output.table(("coefficient", "estimate", f"{answer['level']:.0%} interval"), rows)
    for one in answer["held_out"]:
        inside = "inside" if one["inside"] else "outside"
        output.print(
            f"held out, {count(one['params'])} parameters, {count(one['tokens'])} tokens: predicted {one['predicted']:.4f} ({one['low']:.4f} to {one['high']:.4f}), "
            f"measured {one['loss']:.4f}: {one['error']:+.2%}, {inside} the interval"
        )
    output.print(
        *(f"doubt: {doubt}" for doubt in answer["doubts"]), f"page: {answer['page']}", f"fit: {Path(answer['folder']) / 'fit.json'}"
    )
