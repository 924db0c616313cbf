"""The arguments that every command on a recipe takes, and reading them."""

from __future__ import annotations

import argparse
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
