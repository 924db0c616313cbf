r"""Watching loss and gradient norm: what to do about a step that is not finite or far outside what came before.

A value x is a spike when its logarithm stands out upward from the last `window` values by robust statistics,

    (log x - median) / max(1.4826 MAD, floor)  >  threshold

The floor (1% for the loss, 25% for the gradient norm, whose clean single-step excursions are far larger) keeps a very even run
from calling its own small noise a spike. Falling never counts. Nothing but non-finite values is judged before `warmup` steps have been
seen. A value of 0, as of a step in which nothing was scored, or below has no logarithm: it is neither judged nor remembered. A spike
enters the statistics like any other value, so a lasting change of level (another data source) is accepted after half a window where
updates are applied all the same, or as many may be held back (`most`): else the run is stopped before.

Decisions are a function of the two numbers and the past alone: ranks that are given equal numbers decide alike.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

Policy = Literal["log", "skip", "roll_back", "stop"]
FLOORS = {"loss": 0.01, "gradient norm": 0.25}
MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class Verdict:
    """action: none, log (apply the update all the same), skip, roll_back or stop. event: nonfinite, spike, or empty. message: one line."""

    action: Literal["none", "log", "skip", "roll_back", "stop"] = "none"
    event: str = ""
    message: str = ""

    @property
    def applies(self) -> bool:
        """Whether the update is made."""
        return self.action in ("none", "log")


class AnomalyGuard:
    """One judgment a step.

    policy: what happens to an anomalous step: ``log`` applies it, ``skip`` leaves it out, ``roll_back`` also returns to the last
    checkpoint, ``stop`` ends the run. threshold: robust deviations. window: steps looked back on. most: anomalous updates held
    back within the last `window` judgments before the run is stopped, because a run that hides its instability that often is lost.
    """

    def __init__(
        self, *, policy: Policy = "skip", threshold: float = 10.0, window: int = 64, most: int = 20, warmup: int | None = None
    ) -> None:
        self.policy, self.threshold, self.window, self.most = policy, threshold, window, most
        self.warmup = max(2, min(32, window // 2) if warmup is None else warmup)
        self.past: dict[str, deque[float]] = {name: deque(maxlen=window) for name in FLOORS}
        self.held_back: deque[bool] = deque(maxlen=max(window, most + 1))

    def begin(self) -> None:
        """A stage begins, whose losses may be of another kind: what was usual before says nothing of it."""
        for values in self.past.values():
            values.clear()
        self.held_back.clear()

    def judge(self, loss: float, gradient_norm: float) -> Verdict:
        """The verdict on a step before its update. loss: per scored unit over the whole step; both equal on all ranks."""
        values = {"loss": loss, "gradient norm": gradient_norm}
        broken = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if broken:
            return self._act("nonfinite", " and ".join(broken))
        high = [self._outlier(name, value) for name, value in values.items()]
        for name, value in values.items():
            if value > 0:
                self.past[name].append(math.log(value))
        found = [line for line in high if line]
        if found:
            return self._act("spike", " and ".join(found))
        self.held_back.append(False)
        return Verdict()

    def _outlier(self, name: str, value: float) -> str:
        past = self.past[name]
        if len(past) < self.warmup or value <= 0:
            return ""
        middle = statistics.median(past)
        spread = max(MAD_TO_SIGMA * statistics.median(abs(item - middle) for item in past), FLOORS[name])
        deviation = (math.log(value) - middle) / spread
        if deviation <= self.threshold:
            return ""
        return f"{name} {value:.4g} is {value / math.exp(middle):.3g} times the median of the last {len(past)} steps ({deviation:.0f} robust deviations)"

    def _act(self, event: str, message: str) -> Verdict:
        if self.policy == "log":
            self.held_back.append(False)
            return Verdict("log", event, message)
        self.held_back.append(True)
        if self.policy != "stop" and sum(self.held_back) > self.most:
            return Verdict(
                "stop",
                event,
                f"{message}; instability hidden too often: {sum(self.held_back)} of the last {len(self.held_back)} updates were held back",
            )
        return Verdict(self.policy, event, message)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"past": {name: list(values) for name, values in self.past.items()}, "held_back": list(self.held_back)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state_dict; a changed window keeps its newest part."""
        for name, values in state["past"].items():
            self.past[name] = deque(values, maxlen=self.window)
        self.held_back = deque(state["held_back"], maxlen=max(self.window, self.most + 1))


@dataclass(frozen=True)
class BadRow:
    """One row of a step: its global number, its source and its loss per scored unit."""

    row: int
    source: str
    loss: float


def worst_rows(rows: list[tuple[int, int, float]], names: list[str], count: int = 8) -> list[BadRow]:
    """The rows with the highest loss, non-finite ones first, then by row number; rows: (row, source index, loss per unit)."""
    ordered = sorted(rows, key=lambda item: (math.isfinite(item[2]), -item[2] if math.isfinite(item[2]) else 0.0, item[0]))
    return [BadRow(row, names[source] if 0 <= source < len(names) else str(source), loss) for row, source, loss in ordered[:count]]
