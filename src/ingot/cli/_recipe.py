"""The arguments that every command on a recipe takes, and reading them."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.recipe import Recipe

NOWHERE = Path(".ingot") / "nowhere"  # the folder of a Run that is looked at and never trained


def configure(parser: argparse.ArgumentParser) -> None:
    """RECIPE, ``key=value`` overrides and ``--tiny``."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe file (.yaml), or the name of a shipped one, such as text/gpt_tiny")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it, such as stages.0.optimizer.lr=3e-4")
    parser.add_argument("--tiny", action="store_true", help="the recipe's tiny twin: the same code path in seconds on a CPU")


def read(arguments: argparse.Namespace) -> Recipe:
    """The recipe as the arguments ask for it. Raises UserError."""
    from ..core.recipe import load

    return load(arguments.recipe, arguments.overrides, tiny=arguments.tiny)


def configure_price(parser: argparse.ArgumentParser, use: str) -> None:
    """``--price``. use: what it is wanted for."""
    parser.add_argument("--price", type=float, metavar="PER_HOUR", help=use)


def price(arguments: argparse.Namespace) -> float | None:
    """Of an hour, where it is given. Raises UserError for what is none."""
    from ..core.errors import Problem, UserError

    found: float | None = arguments.price
    if found is not None and not 0 <= found < math.inf:
        raise UserError([Problem("--price", f"wants a price of at least 0, got {found:g}")])
    return found


def configure_start(parser: argparse.ArgumentParser) -> None:
    """``--from``, for commands that look at a run which starts from existing weights."""
    parser.add_argument(
        "--from", dest="start_from", metavar="CHECKPOINT", help="as ingot train starts: from a run, a checkpoint, or hf:FOLDER"
    )


def continued(arguments: argparse.Namespace) -> Recipe:
    """As read; with ``--from hf:FOLDER`` the folder's model and tokenizer take the place of the recipe's own. Raises UserError, also where
    there is nothing to start from."""
    recipe = read(arguments)
    if arguments.start_from:
        from ..build.initial_weights import adopt, checkpoint_at

        if arguments.start_from.startswith("hf:"):
            adopt(recipe, arguments.start_from)
        else:
            checkpoint_at(Path(arguments.start_from))
    return recipe
