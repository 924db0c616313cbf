"""Show that accumulation, ranks and layout do not change a recipe's gradient.

Computes the gradient of the first window in one piece on one process, then with every accumulation, number of ranks and layout, and
compares tensor by tensor; dropout and masking stay on. Relative differences beyond 3e-6 in fp32 or 1e-12 in fp64 fail.
With --from hf:FOLDER the model has the folder's form; its weights are drawn anew all the same.

$ ingot parity recipes/text/gpt_tiny.yaml --tiny
$ ingot parity recipes/text/bert_tiny.yaml layout=fsdp --tiny --ranks 2,4 --accumulation 1,5 --precision fp64
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

from . import _recipe
from ._output import Output


def counts(text: str) -> list[int]:
    """``1,2,5``."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"wants whole numbers above 0 such as 1,2,5, got {text!r}")
    return list(dict.fromkeys(found))


def configure(parser: argparse.ArgumentParser) -> None:
    _recipe.configure(parser)
    _recipe.configure_start(parser)
    parser.add_argument("--ranks", type=counts, default=[1, 2], metavar="N,N", help="process counts (default: 1,2)")
    parser.add_argument("--accumulation", type=counts, default=[1, 2, 5], metavar="N,N", help="micro-batches of a window (default: 1,2,5)")
    parser.add_argument("--precision", choices=("fp32", "fp64"), default="fp32", help="fp32 (default) or fp64")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..build.check import resolve_run
    from ..build.parity import TOLERANCE, compare
    from ..core.parts import parts_in, plain

    recipe = plain(resolve_run(_recipe.continued(arguments))) | {"precision": arguments.precision}
    chosen = recipe["layout"]
    layouts = [name for name in parts_in("parallel.layout") if name != "single"] if chosen == "auto" else [chosen["name"]]
    ways = [
        ("single", 1) if ranks == 1 else (layout, ranks) for ranks in arguments.ranks for layout in (layouts if ranks > 1 else ["single"])
    ]
    tolerance = TOLERANCE[arguments.precision]
    with tempfile.TemporaryDirectory(prefix="ingot-parity-") as folder:
        cases = compare(recipe, Path(folder), ways, arguments.accumulation)
    equal = all(case.equal(tolerance) for case in cases)
    output.table(
        ("layout", "ranks", "accumulation", "gradient difference", "loss difference", "worst tensor"),
        [
            (case.layout, case.ranks, case.accumulation, f"{case.difference:.1e}", f"{case.loss_difference:.1e}", case.tensor or "none")
            for case in cases
        ],
    )
    output.print(f"{'equal' if equal else 'NOT equal'} to {tolerance:g} relative, {arguments.precision}")
    output.result(
        {
            "recipe": arguments.recipe,
            "equal": equal,
            "tolerance": tolerance,
            "precision": arguments.precision,
            "cases": [asdict(case) for case in cases],
        }
    )
    return 0 if equal else 1
