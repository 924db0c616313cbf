"""Check a recipe before it runs: every problem, its needs, a rehearsal.

Each problem has its file and line, its place in the recipe, and the nearest right name. Then, without preparing data: memory and time.
Last, the recipe's tiny twin takes two real steps, saves, loads and evaluates. --static stops after the problems.

$ ingot check recipes/text/gpt_tiny.yaml
$ ingot check recipes/text/gpt_tiny.yaml stages.0.optimizer.lr=3e-4 --static
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import _recipe
from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    _recipe.configure(parser)
    _recipe.configure_start(parser)
    parser.add_argument("--static", action="store_true", help="only what can be known without building anything")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..build.check import check
    from ..core.errors import UserError

    recipe = _recipe.continued(arguments)
    _, problems = check(recipe, Path.cwd())
    if problems:
        raise UserError(problems)
    facts: dict[str, Any] = {}
    if not arguments.static:
        facts = {"forecast": forecast(recipe, output), "rehearsal": rehearsal(arguments, recipe, output)}
    output.print(f"{arguments.recipe}{' --tiny' * arguments.tiny}: no errors.")
    output.result({"recipe": arguments.recipe, "tiny": arguments.tiny, "errors": [], **facts})
    return 0


def forecast(recipe: Any, output: Output) -> dict[str, Any]:
    """Peak memory of each stage and the time of the run, in a line each."""
    from ..build.memory_fit import available_bytes
    from ..build.plan import plan
    from ..build.run import build
    from ..core.amounts import duration, size

    run = build(recipe, runs=_recipe.NOWHERE)
    found = plan(run, available_bytes(run))
    for number, stage in enumerate(found["stages"]):
        verdict = "fits" if stage["fits"] else "does NOT fit"
        output.print(
            f"stage {number}: peak {size(stage['forecast']['peak'])} with micro-batches of {stage['micro_rows']} rows {verdict} into {size(found['available'])}; about {duration(stage['seconds'])}"
        )
    return {key: found[key] for key in ("fits", "seconds", "cost", "parameters")}


def rehearsal(arguments: argparse.Namespace, recipe: Any, output: Output) -> dict[str, Any]:
    """Two real steps of the twin; its problems end the check."""
    from ..build.rehearse import rehearse
    from ..core.errors import UserError
    from ..core.recipe import load

    # The twin keeps its own small data and frozen encoders: neither preparing the real corpus nor what it goes through is a check.
    kept = [item for item in arguments.overrides if not item.startswith("data.") and not item.partition("=")[0].endswith(".start")]
    try:
        twin = recipe if arguments.tiny else load(arguments.recipe, kept, tiny=True)
    except UserError:
        output.print("no tiny overlay: not rehearsed")
        return {}
    found = rehearse(twin)
    if found["problems"]:
        raise UserError(found["problems"])
    output.print(f"rehearsal: {found['steps']} steps of the tiny twin, saved, loaded and evaluated in {found['seconds']:.1f} s")
    return {key: found[key] for key in ("steps", "seconds")}
