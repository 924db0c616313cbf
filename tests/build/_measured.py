"""Run by test_plan.py: ``ingot train`` in this process, and what its memory came to, as JSON on the last line.

python _measured.py RECIPE key=value ...     baseline: the most the process held when its data was open and nothing of the model was made
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from ingot.build import session
from ingot.cli import main
from ingot.ledger.memory import process_peak


def measured(arguments: list[str]) -> dict[str, int]:
    torch.set_num_threads(1)
    baseline: list[int] = []
    begin = session.prepare_folder

    def noted(run: Any) -> None:
        run.data_of(0)
        baseline.append(process_peak())
        begin(run)

    session.prepare_folder = noted
    status = main(["train", *arguments])
    return {"status": status, "baseline": baseline[0], "peak": process_peak()}


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1:])))
