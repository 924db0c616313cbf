"""A run's steps on its loader's windows and on windows that lie ready in memory, in turn, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import cycle, islice
from typing import Any

BEGUN = 3  # windows that a new loader has ready or in hand before its block's first step is timed; their steps are not counted


def of_cached(run: Any, rounds: int, steps: int) -> dict[str, Any]:
    """Samples a second both ways, and the rate on the loader's windows over the rate on kept ones. The first round is a warm-up."""
    from ingot.train.step import step

    state = run.state()
    state.progress.entering = True
    stage = run.program.enter(state)

    def block(windows: Iterator[Any], count: int) -> list[float]:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            window = [stage.prepare(micro) for micro in next(windows)]
            step(
                state,
                window,
                run.layout,
                side_weights=stage.side,
                hooks=stage.hooks,
                judge=lambda found: True,
                stop=lambda: False,
                phase=lambda name: nullcontext(),
            )
            times.append(time.perf_counter() - began)
        return times

    seconds: dict[str, list[float]] = {"cached": [], "loader": []}
    kept: list[Any] = []
    row = 0
    for number in range(rounds + 1):
        opened = stage.open(row, stage.batch_rows, stage.micro_rows)
        loaded = iter(opened)
        kept = kept or list(islice(loaded, 4))
        times = block(loaded, steps + BEGUN)[BEGUN:]
        opened.close()  # nothing is read or decoded while kept windows are used
        row += (steps + 2 * BEGUN + 2) * stage.batch_rows
        if number:
            seconds["loader"] += times
            seconds["cached"] += block(cycle(kept), steps)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    total = {name: statistics.mean(values) for name, values in seconds.items()}
    return {
        "samples_per_second": {name: stage.batch_rows / value for name, value in middle.items()},
        "ratio_of_medians": middle["cached"] / middle["loader"],
        "ratio_of_means": total["cached"] / total["loader"],
        "steps": {name: len(values) for name, values in seconds.items()},
    }
