"""A run's steps on its loader's windows and on windows that lie ready in memory, in turn, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import cycle, islice
from typing import Any

from _machine import spread

WARM = 8  # pairs that are not counted; a loader with a thread has windows in advance before the first


def of_cached(run: Any, pairs: int) -> dict[str, Any]:
    """Samples a second both ways, and the rate on the loader's windows over the rate on kept ones: of all steps, and of each pair, whose
    steps are neighbors in time and so know the same clock. A step on the loader's windows makes one window, by a thread or not: before
    any step nothing is in the making any more."""
    from ingot.train.step import step

    state = run.state()
    state.progress.entering = True
    stage = run.program.enter(state)

    def one(windows: Iterator[Any]) -> float:
        _rest()
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
        return time.perf_counter() - began

    opened = stage.open(0, stage.batch_rows, stage.micro_rows)
    loaded = iter(opened)
    windows = {"loader": loaded, "cached": cycle(list(islice(loaded, 4)))}
    seconds: dict[str, list[float]] = {name: [] for name in windows}
    for number in range(WARM + pairs):
        for name in windows if number % 2 else reversed(windows):
            seconds[name].append(one(windows[name]))
    opened.close()
    seconds = {name: values[WARM:] for name, values in seconds.items()}
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "samples_per_second": {name: stage.batch_rows / value for name, value in middle.items()},
        "ratio_of_medians": middle["cached"] / middle["loader"],
        "ratio_of_pairs": spread([kept / made for kept, made in zip(seconds["cached"], seconds["loader"], strict=True)]),
        "ratio_of_means": sum(seconds["cached"]) / sum(seconds["loader"]),
    }


def _rest() -> None:
    """Until this process stands still."""
    busy = 1.0
    while busy > 5e-4:
        before = time.process_time()
        time.sleep(5e-3)
        busy = time.process_time() - before
