"""Tell which data a run was shown at a step.

The order of rows is a function of recipe and seed, so nothing of it is stored: rows are found again, with their source, epoch and place.
Where a hook chooses among the rows that are read, all that it chose from are listed. --json has the whole texts.

$ ingot rows runs/gpt_tiny --step 100
$ ingot rows runs/gpt_tiny --step 100 --most 1000 --json
"""

from __future__ import annotations

import argparse

from ..core.folders import run_and_checkpoint
from ._output import Output

SHOWN = 60  # characters of a text


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--step", type=int, required=True, metavar="N", help="a step of the run, the first is 1")
    parser.add_argument("--most", type=int, default=16, metavar="ROWS", help="list at most so many rows (default: 16)")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..build.check import resolve_run
    from ..build.run import Run, recipe_of
    from ..build.seen import seen
    from ..core.errors import UserError

    folder, _ = run_and_checkpoint(arguments.run)
    if arguments.most < 1:
        raise UserError(f"--most wants a number of at least 1, got {arguments.most}")
    answer = seen(Run(resolve_run(recipe_of(folder)), folder), arguments.step, arguments.most)
    rows, read = answer["rows"], answer["read_rows"]
    chosen = f", of which {answer['trained_rows']} were trained on" if answer["trained_rows"] < read else ""
    loss = "not finite" if answer["loss"] is None else f"{answer['loss']:.4f}"
    output.print(f"step {answer['step']}: {read} rows{chosen}, loss {loss}", "")
    columns = ("source", "where", *(["text"] if "text" in rows[0] else []), "row", "epoch")
    output.table(
        columns,
        [[_short(one[name]) if name == "text" else one[name] for name in columns] for one in rows],
        words=len(columns) - 2,
    )
    if read > len(rows):
        output.print(f"and {read - len(rows)} more (--most)")
    output.result(answer)
    return 0


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SHOWN else f"{words[: SHOWN - 1]}…"
