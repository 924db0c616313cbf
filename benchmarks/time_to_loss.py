"""Time to a loss: the shipped recipe against transformers' Trainer tuned over learning rates and batch sizes, same data and tokenizer.

    python benchmarks/time_to_loss.py FOLDER calibrate      on an idle machine, 4 minutes: seconds of start-up and of a step, both sides
    python benchmarks/time_to_loss.py FOLDER run            at any load, and again after a stop: trains, two hours of an idle machine
    python benchmarks/time_to_loss.py FOLDER confirm        on an idle machine, 10 minutes: whole processes at the budget found, timed

Budgets are steps: those that fit into the minutes by the calibration, so that load changes no figure. The peer (GPT-2 of the same
parameters within 2 %) is tuned on validation part A: all 3 learning rates x 3 batch sizes with a schedule of 3 minutes, the best
(--finalists) again with one of 10. Both sides' learning rates end at 0, and both compute in bf16 where the processor multiplies it. Figures
are bits per byte on part B, which neither side's tuning sees. Ingot's recipe is run with shorter and shorter budgets until it no
longer reaches the peer's median; the ratio of process times is the figure. Start-up and compilation count on both sides.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _machine import AS_FOUND, ROOT, text_folder, write
from step_speed import environment

LEARNING_RATES = (3e-4, 1e-3, 3e-3)
BATCHES = (4, 8, 16)
PARTS = ("a", "b")


def setting(folder: Path) -> dict[str, Any]:
    """Rows and validation parts of the shipped recipe's own store, as arrays for the peer."""
    import os

    import numpy as np

    import ingot

    os.chdir(folder)
    recipe = ingot.load_recipe(ROOT / "recipes/text/fast_small.yaml", overrides("tokens"))
    run = ingot.build(recipe, runs=folder / "runs")
    data = run.data_of(0)
    size = run.tokenizer.token_bytes()
    np.save(folder / "rows.npy", data.train.batch(0, min(data.train.rows_per_epoch, 40_000))["tokens"].astype(np.uint16))
    parts: dict[str, Any] = {"parameters": run.parameters(), "vocabulary": run.tokenizer.vocabulary, "sequence": run.section.data.sequence}
    stream = next(iter(data.validation.values()))
    tokens = stream.batch(0, stream.rows_per_epoch)["tokens"]
    for name, rows in {"a": tokens[0::2][:128], "b": tokens[1::2][:128]}.items():
        np.save(folder / f"{name}.npy", rows.astype(np.uint16))
        parts[name] = float(size[rows[:, 1:]].sum())
    return parts


def overrides(name: str) -> list[str]:
    files = [str(text_folder() / part / "train.jsonl.gz") for part in ("fiction", "technical")]
    held = [str(text_folder() / part / "validation.jsonl.gz") for part in ("fiction", "technical")]
    return [
        f"name={name}",
        f"data.train={{name: jsonl, paths: [{', '.join(files)}]}}",
        f"data.validation={{name: jsonl, paths: [{', '.join(held)}]}}",
        "data.holdout=0",
    ]


SHAPE = ["--layers", "6", "--width", "256", "--heads", "4"]


def peer(folder: Path, parts: dict[str, Any], *, lr: float, batch: int, steps: int, seed: int) -> dict[str, Any]:
    """A whole process of the peer; its bits per byte on parts A and B."""
    from ingot.ops.bf16 import cpu_has_bf16

    command = [
        sys.executable,
        str(ROOT / "benchmarks/peer_trainer.py"),
        "--rows",
        str(folder / "rows.npy"),
        "--lr",
        str(lr),
        "--batch",
        str(batch),
        "--steps",
        str(steps),
        "--output",
        str(folder / "peer"),
        "--seed",
        str(seed),
        "--vocabulary",
        str(parts["vocabulary"]),
        "--validation",
        *(str(folder / f"{part}.npy") for part in PARTS),
        "--validation-bytes",
        *(str(parts[part]) for part in PARTS),
        *SHAPE,
        *([] if cpu_has_bf16() else ["--fp32"]),  # as Ingot's precision=auto decides
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=AS_FOUND)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return found | {"lr": lr, "batch": batch, "seed": seed, "bits_per_byte": dict(zip(PARTS, found["bits_per_byte"], strict=True))}


def ingot_run(folder: Path, steps: int, seed: int, parts: dict[str, Any]) -> dict[str, Any]:
    """A whole process with only the budget changed; then, untimed, bits per byte on part B."""
    import numpy as np
    import torch

    name = f"ingot_{steps}_{seed}"
    shutil.rmtree(folder / "runs" / name, ignore_errors=True)
    began = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "ingot",
        "train",
        str(ROOT / "recipes/text/fast_small.yaml"),
        *overrides(name),
        f"seed={seed}",
        f"stages.0.budget={steps} steps",
        "--json",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    from ingot.build.run import open_run

    run = open_run(folder / "runs" / name)
    rows = torch.from_numpy(np.load(folder / "b.npy").astype(np.int64))
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), 16):
            batch = run.model.objective.prepare(
                {"tokens": rows[start : start + 16], "rows": torch.arange(16)[: len(rows[start : start + 16])], "key": run.key()}
            )
            total += float(run.model(batch)["cross_entropy"].sum())
    summary = json.loads(done.stdout)
    return {
        "seconds": wall,
        "budget_steps": steps,
        "seed": seed,
        "bits_per_byte": total / np.log(2) / parts["b"],
        "tokens": summary["tokens"],
        "steps": summary["step"],
    }


class Notes:
    """Results by name in FOLDER/notes.json: what is there is not run again."""

    def __init__(self, folder: Path):
        self.path = folder / "notes.json"
        self.kept: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.kept:
            self.kept[name] = make()
            self.path.write_text(json.dumps(self.kept))
            print(
                name,
                {k: v for k, v in self.kept[name].items() if k != "losses"} if isinstance(self.kept[name], dict) else self.kept[name],
                flush=True,
            )
        return self.kept[name]


def line(few: dict[str, Any], many: dict[str, Any]) -> dict[str, float]:
    """Start-up and seconds a step from two runs of different length."""
    step = (many["seconds"] - few["seconds"]) / (many["steps"] - few["steps"])
    return {"step": step, "start": few["seconds"] - step * few["steps"]}


def calibrate(folder: Path, notes: Notes) -> None:
    parts = notes.once("parts", lambda: setting(folder))
    for batch in BATCHES:
        notes.once(
            f"peer pace {batch}",
            lambda batch=batch: line(*(peer(folder, parts, lr=1e-3, batch=batch, steps=steps, seed=0) for steps in (8, 8 + 160 // batch))),
        )
    notes.once("ingot pace", lambda: line(*(ingot_run(folder, steps, 0, parts) for steps in (20, 80))))


def steps_in(pace: dict[str, float], seconds: float) -> int:
    return int((seconds - pace["start"]) / pace["step"])


def run(folder: Path, notes: Notes, seeds: int, budgets: list[float], finalists: int) -> None:
    parts, pace = notes.kept["parts"], {batch: notes.kept[f"peer pace {batch}"] for batch in BATCHES}

    def trial(lr: float, batch: int, minutes: float, seed: int, part: str) -> dict[str, Any]:
        steps = steps_in(pace[batch], 60 * minutes)
        found = notes.once(f"peer {lr} {batch} {minutes} {seed}", lambda: peer(folder, parts, lr=lr, batch=batch, steps=steps, seed=seed))
        return {k: v for k, v in found.items() if k not in ("losses", "seconds")} | {
            "bits_per_byte": found["bits_per_byte"][part],
            "judged_on": part,
            "lr": lr,
            "batch": batch,
            "seed": seed,
            "idle_seconds": pace[batch]["start"] + steps * pace[batch]["step"],
        }

    short = sorted((trial(lr, batch, 3, 0, "a") for lr in LEARNING_RATES for batch in BATCHES), key=lambda item: item["bits_per_byte"])
    long = [trial(item["lr"], item["batch"], 10, 0, "a") for item in short[:finalists]]
    best = min(long, key=lambda item: item["bits_per_byte"])
    peers = [trial(best["lr"], best["batch"], 10, seed, "b") for seed in range(seeds)]
    target = statistics.median(item["bits_per_byte"] for item in peers)
    runs, reached = [], None
    for seconds in budgets:
        steps = steps_in(notes.kept["ingot pace"], seconds)
        found = [
            notes.once(f"ingot {steps} {seed}", lambda seed=seed, steps=steps: ingot_run(folder, steps, seed, parts))
            | {"idle_seconds": seconds}
            for seed in range(seeds)
        ]
        runs += found
        if statistics.median(item["bits_per_byte"] for item in found) > target:
            break
        reached = {"steps": steps, "seconds": seconds}
    notes.kept["result"] = {
        "parameters": {"ingot": parts["parameters"], "peer": peers[0]["parameters"]},
        "pace": {"peer": pace, "ingot": notes.kept["ingot pace"]},
        "tuning": short + long,
        "peer": peers,
        "ingot": [{k: v for k, v in item.items() if k != "seconds"} for item in runs],
        "target_bits_per_byte": target,
        "reached": reached,
    }
    notes.path.write_text(json.dumps(notes.kept))


def confirm(folder: Path, notes: Notes) -> None:
    """Time one whole process of each side alone, and write the result."""
    result, parts = notes.kept["result"], notes.kept["parts"]
    if result["reached"] is None:
        write("time_to_loss", result | {"ratio": None})
        return
    best, steps = result["peer"][0], result["reached"]["steps"]
    theirs = peer(folder, parts, lr=best["lr"], batch=best["batch"], steps=best["steps"], seed=0)
    ours = ingot_run(folder, steps, 0, parts)
    rate = (ours["tokens"] / ours["seconds"]) / (theirs["tokens"] / theirs["seconds"])
    ratio = theirs["seconds"] / ours["seconds"]
    write(
        "time_to_loss",
        result
        | {
            "seconds": {"ingot": ours["seconds"], "peer": theirs["seconds"]},
            "ratio": ratio,
            "ratio_from_rate": rate,
            "ratio_from_fewer_tokens": ratio / rate,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", choices=["calibrate", "run", "confirm"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--finalists", type=int, default=3, help="of the peer's settings, trained for 10 minutes each")
    parser.add_argument("--budgets", type=float, nargs="+", default=[200, 150, 120, 100, 80])
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    notes = Notes(folder)
    if options.what == "calibrate":
        calibrate(folder, notes)
    elif options.what == "run":
        run(folder, notes, options.seeds, options.budgets, options.finalists)
    else:
        confirm(folder, notes)


if __name__ == "__main__":
    main()
