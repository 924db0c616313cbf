"""Running trials until none is left: those of a race, which follow from what is known so far, or the rungs of a ladder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..core.errors import RunError
from .pool import Pool
from .trials import Store, Trial

Say = Callable[[str], None]
TRIES = 3  # times that a trial may be killed without a result before all is given up


def run_waiting(
    waiting: Callable[[], Iterable[Trial]], prepare: Callable[[Trial], Path], store: Store, pool: Pool, say: Say
) -> Iterator[tuple[Trial, dict[str, Any]]]:
    """Each trial that has ended with its result, until `waiting` names no more.

    prepare: writes the trial's folder and returns it, resolved. Trials that were killed are started again. Raises RunError for those that
    are killed too often or end in an error.
    """
    running: dict[Path, Trial] = {}
    deaths: dict[str, int] = {}
    while True:
        busy = {trial.key for trial in running.values()}
        fresh = [trial for trial in {trial.key: trial for trial in waiting()}.values() if trial.key not in busy]
        while fresh and len(running) < pool.size:
            trial = fresh.pop(0)
            place = prepare(trial)
            (place / "error.txt").unlink(missing_ok=True)
            pool.start(place)
            running[place] = trial
        if not running:
            return
        for place, status in pool.wait():
            if place not in running:
                continue  # of an earlier race with the same pool
            trial = running.pop(place)
            result = store.result(trial)
            if result is not None:
                yield trial, result
                continue
            deaths[trial.key] = deaths.get(trial.key, 0) + 1
            if status > 0 or deaths[trial.key] >= TRIES:
                raise RunError(f"{trial.label}: {error_of(place)}")
            say(f"{trial.label}: was killed (status {status}), is started again")


def error_of(place: Path) -> str:
    """What a trial that gave nothing said last."""
    with contextlib.suppress(OSError):
        return (place / "error.txt").read_text(encoding="utf-8").strip()
    return f"died without a word; its output is in {place / 'log.txt'}"
