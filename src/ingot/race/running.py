"""Running trials until none is left: those of a race, which follow from what is known so far, or the rungs of a ladder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..core.errors import RunError, UserError
from .pool import Pool
from .trials import Store, Trial

Say = Callable[[str], None]
MINUTE = 60.0
WRONG = UserError.status  # of a worker's child whose input was wrong
TRIES = 3  # times that a trial may be killed without a result before all is given up


def run_waiting(
    waiting: Callable[[], Iterable[Trial]],
    prepare: Callable[[Trial], Path],
    store: Store,
    pool: Pool,
    say: Say,
    meanwhile: Callable[[list[Trial]], None] | None = None,
) -> Iterator[tuple[Trial, dict[str, Any]]]:
    """Each trial that has ended with its result, until `waiting` names no more.

    prepare: writes the trial's folder and returns it, resolved. meanwhile: told about once a minute what is running. Trials that were
    killed are started again. Raises RunError for those that are killed too often or end in an error.
    """
    running: dict[Path, Trial] = {}
    deaths: dict[str, int] = {}
    told = time.monotonic()
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
        if meanwhile is not None and time.monotonic() - told >= MINUTE:
            meanwhile(list(running.values()))
            told = time.monotonic()
        for place, status in pool.wait() if meanwhile is None else pool.wait(timeout=MINUTE):
            if place not in running:
                continue  # of an earlier race with the same pool
            trial = running.pop(place)
            result = store.result(trial)
            if result is not None:
                yield trial, result
                continue
            deaths[trial.key] = deaths.get(trial.key, 0) + 1
            if status > 0 or deaths[trial.key] >= TRIES:
                error = RunError(f"{trial.label}: {error_of(place)}{killed_words(status)}")
                error.status = WRONG if status == WRONG else error.status  # a UserError would say that nothing was started
                raise error
            say(f"{trial.label}: was killed (status {status}), is started again")


def killed_words(status: int) -> str:
    """What a trial's end by a signal may mean; nothing for one that ended by itself."""
    return f"; it was killed {TRIES} times (status {status}), as happens when memory runs out" if status < 0 else ""


def survey_error(place: Path, status: int, where: str = "") -> RunError | UserError:
    """What ended a look at an arm, before any trial: its input, or what befell the worker."""
    text = f"{where}: {error_of(place)}" if where else error_of(place)
    return UserError(text) if status == WRONG else RunError(text)


def error_of(place: Path) -> str:
    """What a trial that gave nothing said last."""
    with contextlib.suppress(OSError):
        return (place / "error.txt").read_text(encoding="utf-8").strip()
    return f"died without a word; its output is in {place / 'log.txt'}"
