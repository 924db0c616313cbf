"""Trials and where they lie: each in a folder named by a hash of what decides its result, so that none is run twice.

    <races>/trials/<hash>/trial.json     what to run
                          run/           the run folder (recipe arms), or the program's own files (commands)
                          result.json    written whole at the end; a trial with it is done
                          attempts.jsonl a line for every start and end, with the step it went on from
                          log.txt        what the trial said

Trials are shared by all races in the same folder: two races of one baseline run it once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.atomic import write_text
from ..core.recipe import digest
from .metric import held_to

FORMAT = 1  # of result.json; a change makes old results unknown


@dataclass(frozen=True)
class Trial:
    """One run of an arm. purpose: race, control or tune. what: everything that decides the result, as plain data."""

    arm: str
    purpose: str
    seed: int
    factor: float
    what: dict[str, Any] = field(hash=False, compare=False)
    key: str

    @property
    def label(self) -> str:
        """For progress lines."""
        return f"{self.arm}, seed {self.seed}" if self.purpose != "tune" else f"{self.arm}, tuning x{self.factor:g}"


def make_trial(arm: str, purpose: str, seed: int, factor: float, what: dict[str, Any]) -> Trial:
    """A trial with its key. The arm's name does not enter: two arms with one recipe share their runs."""
    return Trial(arm, purpose, seed, factor, what, digest({"format": FORMAT} | what)[:20])


class Store:
    """The folder of trials."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder) / "trials"
        self._known: dict[str, dict[str, Any]] = {}
        self.metric: str | None = None  # that results are held to, once a race's baseline has settled it

    def place(self, trial: Trial) -> Path:
        return self.folder / trial.key

    def write(self, trial: Trial, extra: dict[str, Any]) -> Path:
        """Put trial.json in place; returns the trial's folder."""
        place = self.place(trial)
        place.mkdir(parents=True, exist_ok=True)
        write_whole(
            place / "trial.json",
            {
                "kind": "command" if "command" in trial.what else "recipe",
                "arm": trial.arm,
                "purpose": trial.purpose,
                "seed": trial.seed,
                "factor": trial.factor,
                "what": trial.what,
            }
            | extra,
        )
        return place

    def result(self, trial: Trial) -> dict[str, Any] | None:
        """What the trial gave; None while it is not done."""
        if trial.key not in self._known:
            found = read_json(self.place(trial) / "result.json")
            if found is None:
                return None
            self._known[trial.key] = found
        return held_to(self._known[trial.key], self.metric)

    def attempts(self, trial: Trial) -> list[dict[str, Any]]:
        """Starts and ends so far, for tests and for the curious."""
        return list(read_lines(self.place(trial) / "attempts.jsonl"))


def write_whole(path: Path, value: dict[str, Any]) -> None:
    """JSON; a kill leaves the old file or the new one."""
    write_text(path, json.dumps(value, allow_nan=True))


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a JSON-lines file; a missing file has none, a torn line is passed over."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def note(folder: Path, **entry: Any) -> None:
    """Append a line to a trial's attempts, in one write."""
    descriptor = os.open(folder / "attempts.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(entry) + "\n").encode())
    finally:
        os.close(descriptor)
