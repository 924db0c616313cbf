"""Run by test_memory_fit.py: trains a recipe whose activations take gigabytes under a cap, and prints what was chosen and measured, as JSON.

python _capped.py FOLDER BYTES (0: forecasts the naive need and trains nothing)
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import torch

import ingot
import ingot.ledger.machine
from ingot.build.memory_fit import settle_naively
from ingot.core.recipe import Recipe
from ingot.ledger.memory import process_peak

ROWS, SEQUENCE = 32, 256


def recipe(folder: Path, cap: int) -> Recipe:
    draw = random.Random(0)
    (folder / "text").mkdir(parents=True, exist_ok=True)
    (folder / "text/some.txt").write_text(" ".join(draw.choice(["one", "two", "three", "four"]) for _ in range(20000)))
    return Recipe(
        {
            "name": f"capped{cap}",
            "precision": "fp32",
            "compile": False,
            "device": "cpu",
            "log": {"tensorboard": False},
            "memory": f"{cap or 10**12} B",
            "data": {
                "train": {"name": "text_files", "paths": [str(folder / "text")]},
                "tokenizer": "bytes",
                "sequence": SEQUENCE,
                "cache": str(folder / "cache"),
            },
            "model": {
                "width": 192,
                "embedding": "token",
                "objective": "causal_lm",
                "encoder": {"name": "transformer", "depth": 8, "mixer": {"name": "attention", "heads": 2}, "checkpointing": "auto"},
            },
            "stages": [
                {"budget": "2 steps", "batch": f"{ROWS} rows", "optimizer": {"name": "adamw", "lr": 0.001}, "fused_backward": "auto"}
            ],
            "anomaly": {"policy": "log"},
            "evaluate": {"rows": 1, "batch_rows": 1},
            "checkpoint": {"every": "100%"},
        }
    )


def main(folder: Path, cap: int) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    ingot.ledger.machine.ROWS = ingot.ledger.machine.WIDTH = 64  # the machine's speed does not matter here
    run = ingot.build(recipe(folder, cap))
    if not cap:
        print(json.dumps({"naive": settle_naively(run, 0, ROWS, 1e11).forecast.peak}))
        return
    run.data_of(0)
    baseline = process_peak()
    run.train()
    steps = [line for line in map(json.loads, (run.folder / "ledger.jsonl").read_text().splitlines()) if line["kind"] == "step"]
    print(
        json.dumps(
            {
                "measured": process_peak() - baseline,
                "choices": run.choices,
                "rows": [step["batch_rows"] for step in steps],
                "losses": [step["loss"] for step in steps],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
