"""Whole runs under several ranks, in few processes.

    python _run_worker.py FOLDER        starts every launch of FOLDER/launches.json after another: {"layout", "ranks", "jobs"}

Torch is imported once and the ranks are forks, except for one launch, which torchrun starts. Rank 0 leaves FOLDER/NAME/JOB.safetensors
and JOB.json; exit statuses are not looked at, since gloo may abort a process after its work is done.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import ingot
import ingot.build.run
import ingot.ledger.machine
import ingot.train.loop
from ingot.build.parity import whole, window_gradients
from ingot.core.recipe import Recipe
from ingot.parallel.start import leave
from ingot.train.state import model_tensors

sys.path.append(str(Path(__file__).resolve().parents[1]))
from _forked import forked, preload
from _runs import StopAt


def gradients(run: Any, job: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Every accumulation of the first window, under ``ACCUMULATION/NAME``; the losses."""
    tensors, losses = {}, {}
    start = sparse_start(run) if job["sparse"] else 0
    for count in job["accumulations"]:
        found, losses[str(count)] = window_gradients(run, count, start)
        tensors |= {f"{count}/{name}": value for name, value in found.items()}
    window = next(iter(run.windows(run.data_of(0).train, start=start, rows=run.batch_rows(0), micro_rows=100)))
    prepared = [run.model.objective.prepare(micro) for micro in window]
    units = run.layout.gather(
        [sum(int((micro["rows"] >= 0).sum()) for micro in prepared), sum(int(micro["units"].sum()) for micro in prepared)]
    )
    return tensors, {"losses": losses, "rows_and_units_by_rank": units}


def sparse_start(run: Any) -> int:
    """The first window in which one of four ranks has rows but nothing to score, and another has something."""
    rows = run.batch_rows(0)
    for start in range(0, 100 * rows, rows):
        batch = {key: torch.from_numpy(value) for key, value in run.data_of(0).train.batch(start, rows).items()}
        units = [int(share.sum()) for share in run.model.objective.prepare(batch | {"key": run.key()})["units"].tensor_split(4)]
        if 0 in units and any(units):
            return start
    raise AssertionError("no window is sparse")


def train(run: Any, job: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights at the end; for every step its rows over all ranks and its loss."""
    steps: dict[int, list[int]] = {}
    losses: dict[int, float] = {}
    inner = ingot.train.loop.step

    def recorded(state: Any, window: Any, layout: Any, **others: Any) -> Any:
        number = state.progress.total_steps + 1
        mine = [row for micro in window for row in micro["rows"].tolist() if row >= 0]
        steps[number] = sorted(row for part in layout.gather(mine) for row in part)
        outcome = inner(state, window, layout, **others)
        losses[number] = outcome.loss
        return outcome

    ingot.train.loop.step = recorded
    try:
        summary = run.train(StopAt(job["stop"]) if "stop" in job else None)
    finally:
        ingot.train.loop.step = inner
    return {name: whole(value) for name, value in model_tensors(run.model).items()}, {
        "rows": steps,
        "losses": losses,
        "reason": summary["reason"],
    }


def rank_main(folder: Path, launch: dict[str, Any]) -> None:
    """One rank of a launch: all its jobs, one after another."""
    torch.set_num_threads(1)
    ingot.ledger.machine.ROWS = ingot.ledger.machine.WIDTH = 64  # the machine's speed does not matter here
    os.chdir(folder)
    place = folder / launch["name"]
    for job in launch["jobs"]:
        run = ingot.build(Recipe(job["recipe"]), runs=place / "runs")
        tensors, facts = {"gradients": gradients, "train": train}[job["do"]](run, job)
        if run.layout.rank == 0:
            save_file(tensors, place / f"{job['name']}.safetensors")
            (place / f"{job['name']}.json").write_text(json.dumps(facts))
    if int(os.environ["RANK"]) == 0:
        (place / "done").touch()
    leave()


def fork(folder: Path, launch: dict[str, Any]) -> None:
    """Start the ranks and wait; one that fails ends the others."""
    children = forked(launch["ranks"], lambda rank: rank_main(folder, launch))
    waiting, deadline = set(children), time.monotonic() + 150
    while waiting:
        for child in list(waiting):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                waiting.discard(child)
                if status and not (folder / launch["name"] / "done").exists():
                    deadline = 0
        if time.monotonic() > deadline:
            for child in waiting:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def main(folder: Path) -> None:
    preload()
    for launch in json.loads((folder / "launches.json").read_text()):
        place = folder / launch["name"]
        place.mkdir()
        if "continues" in launch:
            shutil.copytree(folder / launch["continues"] / "runs", place / "runs")
        began = time.monotonic()
        if launch.get("torchrun"):
            (place / "launch.json").write_text(json.dumps(launch))
            command = [
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                str(launch["ranks"]),
                __file__,
                str(folder),
                launch["name"],
            ]
            subprocess.run([sys.executable, *command], timeout=150)
        else:
            fork(folder, launch)
        print(f"{launch['name']}: {time.monotonic() - began:.1f} s", flush=True)
        if not (place / "done").exists():
            raise SystemExit(f"{launch['name']} left no result")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        where = Path(sys.argv[1])
        rank_main(where, json.loads((where / sys.argv[2] / "launch.json").read_text()))
    main(Path(sys.argv[1]))
