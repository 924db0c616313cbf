"""Go on with a run under a larger budget, as the run it would have been.

The old run stays as it is; the new one takes over its past up to the last checkpoint whose scheduled values the larger budget would
not have changed. A constant, infinite or inverse-square-root learning rate goes on from the end, warmup_stable_decay from before its
decay (checkpoint.keep_every keeps such checkpoints). A cosine is refused, as its end cannot be moved, unless --rewarm asks for a
further stage with a new warm-up.

$ ingot extend runs/gpt_tiny --budget '40M tokens'
$ ingot extend runs/gpt_tiny --budget '40M tokens' --rewarm 1% --out runs/gpt_tiny_again
"""

from __future__ import annotations

import argparse
import shlex

from ._output import Output

STARTS = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--budget", required=True, metavar="BUDGET", help="the last stage's new budget in all, such as '40M tokens'")
    parser.add_argument("--rewarm", metavar="SPAN", help="go on from the end with a new warm-up, such as 1%% or '100 steps'")
    parser.add_argument("--out", metavar="OUT", help="the run folder to make (default: RUN_extended)")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..build.extend import extend

    made = extend(arguments.run, arguments.budget, out=arguments.out, rewarm=arguments.rewarm)
    output.print(*made["lines"])
    output.print(f"next:  ingot train {shlex.quote(made['run'] + '/recipe.yaml')}")
    output.result(made)
    return 0
