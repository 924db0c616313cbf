"""A process that runs trials for the race, as many at once as it is given, each in a child forked after torch is loaded.

    python -m ingot.race.worker THREADS

Standard input: a line with a trial's folder. Standard output: a JSON line ``{"folder", "status"}`` for each that has ended; 0 done (or
failed in a way that counts: result.json says so), 2 the input was wrong (error.txt), else it died and left no result. When standard input
closes, because the race was killed, the children are killed and the worker leaves. A lock in the trial's folder keeps two races, or an
orphan of a killed one and its successor, from running the same trial at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from ..core.errors import IngotError, UserError
from .clock import host
from .trials import note, read_json

POLL = 0.05


def main() -> int:
    """Serve folders until the race is gone."""
    threads = int(sys.argv[1])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    _warm(threads)
    waiting, running = b"", dict[int, Path]()
    while True:
        if select.select([0], [], [], POLL if running else None)[0]:
            block = os.read(0, 65536)
            if not block:
                return _end(running)
            *lines, waiting = (waiting + block).split(b"\n")
            running |= {_forked(folder, threads): folder for folder in (Path(line.decode()) for line in lines)}
        for child in list(running):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)  # what a trial that was killed had started
                told = {"folder": str(running.pop(child)), "status": os.waitstatus_to_exitcode(status)}
                os.write(1, (json.dumps(told) + "\n").encode())


def _warm(threads: int) -> None:
    """Load torch once for all trials, and measure the machine once where that starts no threads, which a fork would lose."""
    import torch
    import torch._dynamo  # what optimizers load when they are made: seconds

    from ..ledger.machine import matmul_rate
    from . import command_arm, recipe_arm  # noqa: F401

    torch.set_num_threads(threads)
    if threads == 1:
        matmul_rate("cpu", torch.float32)


def _forked(folder: Path, threads: int) -> int:
    """The process that runs a trial."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        _die_with(parent)
        os._exit(_perform(folder, threads))
    return child


def _end(running: dict[int, Path]) -> int:
    """Kill the trials, and what they started."""
    for child in running:
        with contextlib.suppress(ProcessLookupError):  # not yet a group of its own
            os.killpg(child, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return 0


def _die_with(parent: int) -> None:
    """Leave when the worker is gone, so that a killed race leaves no orphans that go on for long."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _perform(folder: Path, threads: int) -> int:
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    try:
        return perform(folder, threads)
    except UserError as error:
        (folder / "error.txt").write_text(str(error), encoding="utf-8")
        return 2
    except IngotError as error:
        (folder / "error.txt").write_text(str(error), encoding="utf-8")
        return 1
    except BaseException:
        traceback.print_exc()
        (folder / "error.txt").write_text(traceback.format_exc().strip().splitlines()[-1], encoding="utf-8")
        return 3
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def perform(folder: Path, threads: int = 1) -> int:
    """Do what a folder's trial.json asks for unless it is done, holding the folder's lock."""
    from .command_arm import export_rows, run_command
    from .recipe_arm import run_recipe, survey

    kinds = {
        "recipe": (run_recipe, "result.json"),
        "command": (run_command, "result.json"),
        "survey": (survey, "survey.json"),
        "export": (export_rows, "rows/data.json"),
    }
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        trial = read_json(folder / "trial.json")
        if trial is None:
            raise UserError(f"{folder} holds no trial")
        work, done = kinds[trial["kind"]]
        if (folder / done).exists():
            return 0
        note(folder, event="start", time=time.time(), conduct=trial.get("conduct"), host=host())
        work(folder, trial, threads)
        note(folder, event="end", time=time.time())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
