"""Check a recipe without running it: every problem at once.

Each problem has its file and line, its place in the recipe, and the nearest right name.

$ ingot check recipes/text/gpt_tiny.yaml
$ ingot check recipes/text/gpt_tiny.yaml stages.0.optimizer.lr=3e-4
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import _recipe
from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    _recipe.configure(parser)


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..build.check import check
    from ..core.errors import UserError

    _, problems = check(_recipe.read(arguments), Path.cwd())
    if problems:
        raise UserError(problems)
    output.print(f"{arguments.recipe}{' --tiny' * arguments.tiny}: no errors.")
    output.result({"recipe": arguments.recipe, "tiny": arguments.tiny, "errors": []})
    return 0
