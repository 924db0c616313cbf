"""What tests of whole runs share: a stop in the middle, what the ledger says, what the weights are."""

from __future__ import annotations

import json
import os
import signal
from typing import Any


class StopAt:
    """A reporter that stops the run after a step, as a signal would."""

    def __init__(self, step: int):
        self.at = step

    def step(self, line: dict[str, Any]) -> None:
        if line["step"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def lines(run: Any, *kinds: str) -> list[dict[str, Any]]:
    """The lines in a run's ledger, of some kinds alone where they are named."""
    found = map(json.loads, (run.folder / "ledger.jsonl").read_text().splitlines())
    return [line for line in found if not kinds or line["kind"] in kinds]


def weights(run: Any) -> dict[str, Any]:
    """Copies of the model's tensors by name."""
    return {name: value.detach().clone() for name, value in run.model.state_dict().items()}
