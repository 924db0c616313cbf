"""Measure a run's held-out loss per source, and what other evaluators find.

Loss, perplexity and bits per byte come with every objective of text, accuracy with classification.

$ ingot evaluate runs/gpt_tiny
$ ingot evaluate runs/gpt_tiny/checkpoints/step-00000100 --rows 64 --json
$ ingot evaluate runs/vit_tiny --with knn --with '{name: linear_probe, rows: 500}'
"""

from __future__ import annotations

import argparse
from typing import Any

from . import _run
from ._output import Output

COUNTS = ("units", "rows")
FIRST = ("loss", "perplexity", "bits_per_byte")


def configure(parser: argparse.ArgumentParser) -> None:
    _run.configure(parser)
    parser.add_argument(
        "--with", action="append", metavar="EVALUATOR", dest="also", help="an evaluator instead of the recipe's own ones; again for another"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="at most so many rows per source (default: all)")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError

    if arguments.rows is not None and arguments.rows < 1:
        raise UserError(f"--rows wants a number of at least 1, got {arguments.rows}")
    found, checkpoint = _run.opened(arguments, output)
    results = found.evaluate(checkpoint, rows=arguments.rows, also=_chosen(arguments.also))
    if not results:
        raise UserError(f"{arguments.run} has no validation data: set data.validation or data.holdout in its recipe")
    measured = dict.fromkeys(name for result in results.values() for name in result)
    names = [*(name for name in FIRST if name in measured), *(name for name in measured if name not in FIRST)]
    output.table(
        ("source", *(name.replace("_", " ") for name in names)),
        [
            (source, *(f"{result[name]:,.0f}" if name in COUNTS and name in result else _figure(result.get(name)) for name in names))
            for source, result in results.items()
        ],
    )
    output.result({"run": arguments.run, "results": results})
    return 0


def _chosen(texts: list[str] | None) -> list[Any] | None:
    """Evaluators as a recipe would name them. Raises UserError."""
    if texts is None:
        return None
    from ..build.schema import Evaluation
    from ..core.errors import Problem, UserError
    from ..core.recipe import parse
    from ..core.resolve import resolve

    chosen: list[Any] = []
    problems = []
    for text in texts:
        try:
            chosen += resolve(parse(f"also:\n  - {text}\n", "--with"), Evaluation).also
        except UserError as error:  # the option is what the user wrote, not the recipe around it
            inside = [one.where.removeprefix("also.0").strip(".") for one in error.problems]
            problems += [
                Problem("--with", f"{knob}: {one.message}" if knob else one.message, hint=one.hint)
                for knob, one in zip(inside, error.problems)
            ]
    if problems:
        raise UserError(problems)
    return chosen


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}"
