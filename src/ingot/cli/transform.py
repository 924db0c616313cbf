"""Grow or rebuild a trained model: a checkpoint becomes another.

The result is a run of its own with a recipe of the new model: evaluate it, sample from it, go on training it, or start another recipe
from it with --from. Optimizer state is carried along where it can be, and what cannot be carried is said. Several --with are applied in
order. 'ingot parts transform' lists what there is; the same transforms work inside a run as stages.1.transforms.

$ ingot transform runs/small --with 'stack factor=2' --out runs/deep
$ ingot transform runs/small --with widen --with 'upcycle experts=4' --out runs/sparse
$ ingot train runs/deep/recipe.yaml
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from . import _run
from ._output import Output

if TYPE_CHECKING:
    from ..core.parts import Spec

STARTS = True


def configure(parser: argparse.ArgumentParser) -> None:
    _run.configure(parser)
    parser.add_argument(
        "--with",
        dest="transforms",
        action="append",
        required=True,
        metavar="'NAME key=value ...'",
        help="a transform and its knobs; may be given again",
    )
    parser.add_argument("--out", required=True, metavar="OUT", help="the run folder to make")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..build.grow import transform
    from ..ledger.lineage import described

    made = transform(Path(arguments.run), parsed(arguments.transforms), Path(arguments.out))
    for line in made["lines"]:
        output.print(described(line))
    output.print(
        f"next:  ingot train {shlex.quote(made['run'] + '/recipe.yaml')}     (or evaluate, generate, train another recipe --from it)"
    )
    output.result({"run": made["run"], "checkpoint": made["checkpoint"], "transforms": made["lines"]})
    return 0


def parsed(texts: list[str]) -> list[Spec]:
    """``stack factor=2`` as checked parts, in order. Raises UserError with every problem."""
    from ..core.errors import Problem, UserError
    from ..core.parts import Slot
    from ..core.recipe import Recipe, parse
    from ..core.resolve import try_resolve

    specs, problems = [], []
    for text in texts:
        try:
            name, *words = shlex.split(text) or [""]
        except ValueError as error:
            raise UserError([Problem("--with", f"{text!r} is not well quoted: {error}")]) from None
        tree = {"name": name}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                problems.append(Problem("--with", f"a knob is written key=value, got {word!r}"))
            else:
                tree[key] = parse(f"value: {value}", "--with").tree.get("value")
        found, wrong = try_resolve(Recipe(tree), Slot["transform"])
        problems += [Problem(f"--with {name}" + (f" {item.where}" if item.where else ""), item.message, "", item.hint) for item in wrong]
        specs.append(found)
    if problems:
        raise UserError(problems)
    return specs
