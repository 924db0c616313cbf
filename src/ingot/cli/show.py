"""Print a recipe as it resolves, defaults included.

$ ingot show recipes/text/gpt_tiny.yaml
$ ingot show recipes/text/gpt_tiny.yaml --tiny stages.0.batch='8k tokens' > mine.yaml
$ ingot show recipes/text/gpt_tiny.yaml --written
"""

from __future__ import annotations

import argparse

from . import _recipe
from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    _recipe.configure(parser)
    parser.add_argument("--written", action="store_true", help="only what the files and overrides say, without defaults")
    parser.add_argument("--against", metavar="RECIPE", help="print only the keys that differ from this recipe")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.recipe import difference, digest, dump, load

    tree = _tree(_recipe.read(arguments), arguments.written)
    if arguments.against:
        other = _tree(load(arguments.against, (), tiny=arguments.tiny), arguments.written)
        lines = difference(other, tree)
        output.print(*(lines or ["no difference"]))
        output.result({"differences": lines})
        return 0
    output.print(dump(tree).rstrip())
    output.result({"recipe": tree, "hash": digest(tree)})
    return 0


def _tree(recipe: object, written: bool) -> dict[str, object]:
    from ..build.schema import RunSection
    from ..core.parts import plain
    from ..core.recipe import Recipe
    from ..core.resolve import resolve

    assert isinstance(recipe, Recipe)
    tree: dict[str, object] = recipe.tree if written else plain(resolve(recipe, RunSection))
    return tree
