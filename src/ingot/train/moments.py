"""When something is due, and when a run is asked to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.errors import RunError
from ..core.patience import watching

if TYPE_CHECKING:
    from ..core.quantities import Quantity
    from .stage import Stage
    from .state import State


ROUNDING = 1e-9  # of an interval: five times 2 % of 70 steps are 7, though the sum of floating point lies a hair above


@dataclass
class Due:
    """Fires whenever another interval of the stage's progress has passed."""

    every: Quantity
    last: float = 0.0

    def passed(self, stage: Stage, state: State) -> bool:
        unit = stage.budget.unit if self.every.unit == "fraction" else self.every.unit
        size = self.every.value * stage.budget.value if self.every.unit == "fraction" else self.every.value
        spent = float(getattr(state.progress, unit))
        fires = size > 0 and int(spent / size + ROUNDING) > int(self.last / size + ROUNDING)
        self.last = spent
        return fires


@contextmanager
def end_asked(note: Callable[[str], bool]) -> Iterator[None]:
    """Tell note the name of a SIGINT or SIGTERM that arrives inside. It says whether one had come before: then a second SIGINT ends all.

    A wait for what another process makes ends at once. Only the main thread can be told of signals; elsewhere nothing changes.
    """
    asked: list[str] = []

    def leave() -> None:
        if asked:
            raise RunError(f"{asked[0]} came while waiting for another process; what was saved is whole")

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        asked.append(signal.Signals(number).name)
        if note(asked[-1]) and number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with watching(leave):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
