"""A race killed at random moments against the same race left alone: same verdicts, no trial repeated, none lost.

    python benchmarks/race_kill.py [--kills 10]

The race is killed with SIGKILL when its trials have written a random number of further ledger lines, so that load does not matter.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ["a", "race", "that", "is", "killed", "ends", "with", "the", "verdicts", "of", "a", "race", "that", "is", "left", "alone"]
BASE = """# A model of a thousand weights.
data: {train: {name: text_files, paths: [corpus]}, holdout: 0.3, tokenizer: bytes, sequence: 32}
model:
  width: 16
  embedding: token
  encoder: {name: transformer, depth: 1, mixer: {name: attention, heads: 2}, feedforward: gelu, norm: rms}
  objective: causal_lm
stages:
  - {budget: 20 steps, batch: 256 tokens, optimizer: {name: adamw, lr: 0.01}, schedule: {lr: {name: cosine, warmup: 5%, final: 0}}, hooks: [clip]}
evaluate: {rows: 16, batch_rows: 16}
precision: fp32
compile: false
micro_rows: 8
"""
RACE = """# A contender that is hopeless.
baseline: {recipe: base.yaml}
contenders:
  slow: {set: {stages: {0: {optimizer: {lr: 1e-4}}}}}
budget: 12288 tokens
seeds: 3
tuning: {trials: 2}
evaluations: 4
"""


def files(folder: Path) -> Path:
    """Corpus, recipe and race file."""
    draw = random.Random(0)
    (folder / "corpus").mkdir(parents=True)
    for number in range(40):
        (folder / "corpus" / f"{number:02}.txt").write_text(" ".join(draw.choice(CORPUS) for _ in range(60)) + ".\n")
    (folder / "base.yaml").write_text(BASE)
    (folder / "race.yaml").write_text(RACE)
    return folder


def start(folder: Path, into: str) -> subprocess.Popen[str]:
    """The race as a user starts it."""
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH", ""))))
    command = [
        sys.executable,
        "-m",
        "ingot",
        "race",
        "race.yaml",
        "--folder",
        into,
        "--results",
        f"{into}/results",
        "--jobs",
        "2",
        "--json",
    ]
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def lines_written(folder: Path) -> int:
    """Lines of all trials' ledgers."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("trials/*/run/ledger.jsonl"))


def kill(race: subprocess.Popen[str], folder: Path, after: int) -> bool:
    """SIGKILL the race once so many further ledger lines are written; False when it ended before. Its trials must be gone soon."""
    goal = lines_written(folder) + after
    while race.poll() is None and lines_written(folder) < goal:
        time.sleep(0.01)
    if race.poll() is not None:
        return False
    below = psutil.Process(race.pid).children(recursive=True)
    race.send_signal(signal.SIGKILL)
    race.wait()
    _, alive = psutil.wait_procs(below, timeout=20)
    if alive:
        raise SystemExit(f"{len(alive)} processes outlived the race")
    return True


def essence(answer: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on kills: verdicts, effects, every final metric, multipliers, tokens and FLOPs."""
    return {
        name: {key: arm[key] for key in ("verdict", "effect", "finals", "factor")} | {key: arm["spent"][key] for key in ("tokens", "flops")}
        for name, arm in answer["arms"].items()
    }


def history(folder: Path) -> dict[str, Any]:
    """Over all trials: how often each was started, resumed and ended, and whether its ledger tells every step once."""
    trials = []
    for place in sorted((folder / "trials").iterdir()):
        events = [json.loads(line)["event"] for line in (place / "attempts.jsonl").read_text().splitlines()]
        steps = [
            line["step"] for line in map(json.loads, (place / "run" / "ledger.jsonl").read_text().splitlines()) if line["kind"] == "step"
        ]
        trials.append(
            {
                "ends": events.count("end"),
                "starts": events.count("start"),
                "resumed": events.count("resumed"),
                "whole": steps == list(range(1, len(steps) + 1)),
                "done": (place / "result.json").exists(),
                "again": "end" in events and "start" in events[events.index("end") :],
            }
        )
    return {
        "trials": len(trials),
        "repeated": sum(one["again"] or one["ends"] > 1 for one in trials),
        "lost": sum(not one["done"] or not one["whole"] for one in trials),
        "starts": sum(one["starts"] for one in trials),
        "resumed_from_a_checkpoint": sum(one["resumed"] for one in trials),
    }


def compare(folder: Path, kills: int, seed: int = 0, most: int = 60) -> dict[str, Any]:
    """The same race left alone and killed."""
    draw = random.Random(seed)
    straight = start(folder, "straight")
    whole = json.loads(straight.communicate()[0])
    killed = 0
    while killed < kills and kill(start(folder, "killed"), folder / "killed", draw.randrange(1, most)):
        killed += 1
    again = json.loads(start(folder, "killed").communicate()[0])
    return {
        "kills": killed,
        "same": essence(whole) == essence(again),
        "verdicts": {name: arm["verdict"] for name, arm in again["arms"].items() if arm["verdict"]},
    } | history(folder / "killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from _machine import write

    with tempfile.TemporaryDirectory() as folder:
        write("race_kill", compare(files(Path(folder) / "race"), arguments.kills, arguments.seed))


if __name__ == "__main__":
    main()
