"""Runs of several ranks into which something goes wrong, through the real command line.

    python _ranks_worker.py FOLDER        starts every launch of FOLDER/launches.json: {"name", "ranks", "recipe", "fault", "torchrun"}

A fault is one of

    {"kind": "nan", "rows": [first, end]}              the losses of these rows, wherever they are, are NaN in training
    {"kind": "raise" | "kill", "rank", "row"}          this rank fails, or is killed, in the forward pass of this row
    {"kind": "kill_in_save", "rank", "at", "count"}    this rank is killed at its count-th file of the checkpoint `at`
    {"kind": "hang", "rank", "row"}                    this rank stands still in the forward pass of this row
    {"kind": "raise" | "kill" | "hang", "rank"}        the same in preparing the data, for which the others wait

Rank R's standard error goes to FOLDER/NAME/rank-R.err, what it met and ended with to rank-R.json (rows it trained on, a hash of the
weights it holds), exit statuses and seconds to ended.json. Ranks are forks, except where torchrun starts them.
"""

from __future__ import annotations

import hashlib
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

import ingot.ledger.machine
from ingot.build.parity import whole
from ingot.cli import main as command_line
from ingot.data import prepare
from ingot.model.graph import Model
from ingot.train.loop import Loop
from ingot.train.state import State, model_tensors

sys.path.append(str(Path(__file__).resolve().parents[1]))
from _forked import forked, preload

LIMIT = 150.0


def plant(fault: dict[str, Any], rank: int) -> list[int]:
    """Make the fault happen in this process; returns the list in which the rows are noted that it trains on."""
    if fault["kind"] == "kill_in_save" and rank == fault["rank"]:
        sys.addaudithook(Fatal(fault["at"], fault["count"]))
    if rank == fault.get("rank") and "row" not in fault:
        prepare._run = lambda *given: strike(fault)  # type: ignore[assignment]
    real, met = Model.forward, []

    def forward(self: Model, batch: dict[str, torch.Tensor], **asked: Any) -> Any:
        losses = real(self, batch, **asked)
        if not torch.is_grad_enabled():
            return losses
        met.extend(row for row in batch["rows"].tolist() if row >= 0)
        if fault["kind"] == "nan":
            bad = (batch["rows"] >= fault["rows"][0]) & (batch["rows"] < fault["rows"][1])
            return {name: loss * torch.where(bad, float("nan"), 1.0) for name, loss in losses.items()}
        if rank == fault.get("rank") and fault.get("row") in batch["rows"].tolist():
            strike(fault)
        return losses

    Model.forward = forward  # type: ignore[method-assign]
    return met


def strike(fault: dict[str, Any]) -> None:
    if fault["kind"] == "raise":
        raise AssertionError("planted")
    os.kill(os.getpid(), signal.SIGKILL if fault["kind"] == "kill" else signal.SIGSTOP)


class Fatal:
    """An audit hook: SIGKILL at the count-th file or folder of one checkpoint that is opened, made or renamed."""

    def __init__(self, checkpoint: str, count: int):
        self.checkpoint, self.left = checkpoint, count

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.mkdir") and self.checkpoint in str(arguments[0]):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)


def telling(path: Path, met: list[int]) -> None:
    """Have the loop leave at its end what this rank met and the hash of the weights it holds."""
    real = Loop.run

    def run(self: Loop, state: State) -> str:
        reason = real(self, state)
        weights = {name: whole(value) for name, value in model_tensors(state.model).items()}
        digest = hashlib.sha256(b"".join(value.contiguous().numpy().tobytes() for value in weights.values())).hexdigest()
        path.write_text(json.dumps({"rows": met, "weights": digest}))
        return reason

    Loop.run = run  # type: ignore[method-assign]


def rank_main(folder: Path, launch: dict[str, Any]) -> None:
    """One rank: its standard error into a file, its fault planted, the command; does not return."""
    place, rank = folder / launch["name"], int(os.environ["RANK"])
    for number, path in ((1, place / f"rank-{rank}.out"), (2, place / f"rank-{rank}.err")):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    torch.set_num_threads(1)
    ingot.ledger.machine.ROWS = ingot.ledger.machine.WIDTH = 64  # the machine's speed does not matter here
    os.chdir(folder)
    os.environ |= launch.get("environment", {})
    telling(place / f"rank-{rank}.json", plant(launch["fault"] or {"kind": ""}, rank))
    status = command_line(["train", str(place / "recipe.yaml"), "--runs", str(place / "runs")])
    os._exit(status)


def fork(folder: Path, launch: dict[str, Any]) -> dict[str, Any]:
    """Start the ranks and wait for all of them; one that stands still is ended with the last of the others."""
    children = dict(zip(forked(launch["ranks"], lambda rank: rank_main(folder, launch)), range(launch["ranks"])))
    began = time.monotonic()
    ended: dict[str, Any] = {}
    while children:
        for child in list(children):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                ended[str(children.pop(child))] = [os.waitstatus_to_exitcode(status), time.monotonic() - began]
        still = (launch["fault"] or {}).get("kind") == "hang" and list(children.values()) == [launch["fault"]["rank"]]
        if still or time.monotonic() - began > LIMIT:
            for child in children:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return ended


def main(folder: Path) -> None:
    preload()
    for launch in json.loads((folder / "launches.json").read_text()):
        place = folder / launch["name"]
        place.mkdir()
        if "continues" in launch:
            shutil.copytree(folder / launch["continues"] / "runs", place / "runs")
        (place / "recipe.yaml").write_text(json.dumps(launch["recipe"]))
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
            done = subprocess.run([sys.executable, *command], timeout=LIMIT, capture_output=True, text=True)
            (place / "torchrun.err").write_text(done.stderr)
            ended = {"torchrun": [done.returncode, time.monotonic() - began]}
        else:
            ended = fork(folder, launch)
        (place / "ended.json").write_text(json.dumps(ended))
        print(f"{launch['name']}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        where = Path(sys.argv[1])
        rank_main(where, json.loads((where / sys.argv[2] / "launch.json").read_text()))
    main(Path(sys.argv[1]))
