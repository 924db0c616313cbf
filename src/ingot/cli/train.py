"""Train a recipe, or resume it where it stopped.

The run lies in runs/NAME: resolved recipe, ledger, checkpoints, report. Training on an existing run resumes it from its last whole
checkpoint, as does the recipe.yaml in its folder, wherever that lies; a recipe that was changed since is refused. Ctrl-C saves a checkpoint first; a second Ctrl-C stops at once.
Several processes: torchrun --nproc-per-node 2 -m ingot train RECIPE.

$ ingot train recipes/text/gpt_tiny.yaml --tiny
$ ingot train recipes/text/gpt_tiny.yaml stages.0.optimizer.lr=3e-4 'stages.0.budget=10 min'
$ ingot train recipes/text/continue_hf.yaml --from hf:path/to/model
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.folders import with_name
from . import _recipe
from ._output import Output

if TYPE_CHECKING:
    from ..core.recipe import Recipe

STARTS = True


def configure(parser: argparse.ArgumentParser) -> None:
    _recipe.configure(parser)
    parser.add_argument(
        "--from", dest="start_from", metavar="CHECKPOINT", help="start from existing weights: a run, a checkpoint, or hf:FOLDER"
    )
    parser.add_argument("--runs", metavar="DIR", help="where run folders lie (default: runs)")
    _recipe.configure_price(parser, "price of an hour of this machine, to show what the run costs")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..build.run import build
    from ._progress import reporter

    recipe, price = _recipe.read(arguments), _recipe.price(arguments)
    found = build(
        recipe, runs=arguments.runs or runs_of(recipe), start_from=arguments.start_from, echo=output.note if not output.json else None
    )
    follower = reporter(json=output.json, speaks=output.speaks, price_per_hour=price)
    try:
        summary = found.train(follower)
    finally:
        getattr(follower, "stop", lambda: None)()
    output.result(summary)
    if summary.get("reason", "finished") != "finished":
        output.note(f"A checkpoint is saved. To go on:  {shlex.join(['ingot', 'train', *sys.argv[2:]])}")
        return 130
    output.print(f"next:  ingot report {found.folder}     (or evaluate, generate, export)")
    return 0


def runs_of(recipe: Recipe) -> Path:
    """Where run folders lie when nothing is said: beside the run whose own recipe this is, else runs."""
    place = recipe.path or Path()
    folder = with_name(place.parent)
    own = place.name == "recipe.yaml" and (folder / "checkpoints").is_dir() and recipe.tree.get("name") == folder.name
    return folder.parent if own else Path("runs")
