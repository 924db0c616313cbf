"""Write a run's report: one HTML page that needs no network.

Curves against tokens, FLOPs and seconds, where time and compute went, evaluations, samples, events, the recipe. Works while the run trains.

$ ingot report runs/gpt_tiny
$ ingot report runs/gpt_tiny --json
"""

from __future__ import annotations

import argparse

from ..core.amounts import count, duration
from . import _run
from ._output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder")


def run(arguments: argparse.Namespace, output: Output) -> int:
    from ..ledger.ledger import read
    from ..report.page import write_report

    folder, _ = _run.place(arguments.run)
    page = write_report(folder)
    steps = [line for line in read(folder) if line["kind"] == "step"]
    answer = {"page": str(page)} | ({key: steps[-1].get(key) for key in ("step", "tokens", "flops", "seconds", "loss")} if steps else {})
    if steps:
        last = steps[-1]
        output.print(f"{last['step']} steps, {count(last['tokens'])} tokens, {count(last['flops'], 'FLOP')}, {duration(last['seconds'])}")
    output.print(f"report: {page}")
    output.result(answer)
    return 0
