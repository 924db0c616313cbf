"""The worker that runs a race's trials, here programs that wait: what is left, and what is told, when it or a trial is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ingot.race.pool import DIED, Processes

EVALUATION = '{"tokens": 640, "seconds": 0.001, "evaluation": {"a": {"loss": 2.0}}}'
PROGRAM = f"""import os, time
print('{EVALUATION}', flush=True)
open("pid", "w").write(str(os.getpid()))
time.sleep(SECONDS)
"""


def trial_in(folder: Path, seconds: float) -> Path:
    """A trial's folder; its program writes its process id, and ends after so many seconds."""
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM.replace("SECONDS", str(seconds)))
    what = {"command": f"{sys.executable} program.py", "seed": 0, "factor": 1.0, "budget": "640 tokens", "evaluations": 2, "data": "."}
    trial = {"kind": "command", "arm": "theirs", "metric": "auto", "cwd": str(folder), "what": what}
    (folder / "trial.json").write_text(json.dumps(trial))
    return folder


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def program(folder: Path) -> psutil.Process:
    until(lambda: (folder / "pid").exists() and (folder / "pid").read_text() != "")
    return psutil.Process(int((folder / "pid").read_text()))


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def pool() -> Iterator[Processes]:
    found = Processes(2, threads=1)
    yield found
    found.close()


def test_a_trial_that_is_killed_takes_its_program_along_and_no_other(pool: Processes, tmp_path: Path) -> None:
    first, second = trial_in(tmp_path / "first", 600), trial_in(tmp_path / "second", 3)
    pool.start(first)
    pool.start(second)
    started, other = program(first), program(second)
    os.kill(started.ppid(), signal.SIGKILL)
    assert pool.wait() == [(first, -signal.SIGKILL)]
    until(lambda: gone(started))
    assert not gone(other)
    assert pool.wait() == [(second, 0)] and (second / "result.json").exists()


def test_the_death_of_the_worker_is_the_death_of_its_trials_and_the_next_finds_another(pool: Processes, tmp_path: Path) -> None:
    first, second = trial_in(tmp_path / "first", 600), trial_in(tmp_path / "second", 0)
    pool.start(first)
    started = program(first)
    assert pool._worker is not None
    worker = psutil.Process(pool._worker.pid)
    worker.kill()
    until(lambda: gone(worker))
    pool.start(second)
    assert pool.wait() == [(first, DIED)]
    assert pool.wait() == [(second, 0)]
    until(lambda: gone(started))


def test_closing_ends_everything(pool: Processes, tmp_path: Path) -> None:
    pool.start(trial_in(tmp_path / "first", 600))
    started = program(tmp_path / "first")
    pool.close()
    until(lambda: gone(started))
