"""Write a run's report: one HTML page that needs no network.

Curves against tokens, FLOPs and seconds, where time and compute went, evaluations, samples, events, the recipe. Works while the run trains.

$ ingot report runs/gpt_tiny
$ ingot report runs/gpt_tiny --json
"""

from __future__ import annotations

import argparse
from typing import Any

from ..core.amounts import count, duration
from ..core.folders import run_and_checkpoint
from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..core.errors import UserError
    from ..ledger.ledger import FILE, lived, read, totals
    from ..report.page import write_report

    folder, _ = run_and_checkpoint(arguments.run)
    if folder.is_dir() and not any((folder / name).exists() for name in ("recipe.yaml", FILE)):
        raise UserError(f"{folder} is no run: it holds neither a recipe.yaml nor a {FILE}")
    page = write_report(folder)
    lines = lived(read(folder))
    steps = [line for line in lines if line["kind"] == "step"]
    last = totals(lines)
    answer: dict[str, Any] = {"page": str(page)}
    if last.get("step"):
        answer |= {key: last.get(key) for key in ("step", "tokens", "flops", "seconds")} | {
            "loss": steps[-1].get("loss") if steps else None
        }
        output.print(
            f"{last['step']} steps, {count(last['tokens'])} tokens, {count(last['flops'], 'FLOP')}, {duration(last.get('seconds'))}"
        )
    output.print(f"report: {page}")
    output.result(answer)
    return 0
