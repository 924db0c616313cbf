"""Speed of a training step beside the best bf16 matmul and beside transformers' Trainer, in alternation.

6 layers, width 384, 256 tokens, batch 16, vocabulary 8,192, no dropout, bf16 with fp32 master weights; embedding, loss and AdamW
included. Masked attention pairs are not counted as FLOPs.

    [ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16] python benchmarks/step_speed.py [--steps 100] [--rounds 3] [--heads 6]

A tile unit (AMX) multiplies so fast that everything else takes most of a step: a processor that has one has a file of its own, and one
more with the instruction set limited to those of a processor without.

Figures: share of the matmul rate (median step), as ``compile: auto`` decides for so short a run and with ``compile: true``, as it
decides for a long one. The rate is the best of the products made before the run, at its start and after it: clocks of shared machines
wander by a tenth within minutes, so each run has its own; the share of the best rate of all is given too. Loss after --steps steps in
bf16 against fp32; tokens per second of whole processes, start-up and compilation included, and of the median step, as ratios to the
Trainer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _machine import AS_FOUND, ROOT, named, spread, text_folder, write

RECIPE = {
    "name": "step_speed",
    "precision": "bf16",
    "micro_rows": 16,
    "anomaly": {"policy": "log"},
    "data": {
        "train": {"name": "jsonl", "paths": []},
        "tokenizer": {"name": "bpe", "vocabulary": 8192},
        "sequence": 256,
        "pack": {"name": "stream", "attend": "row"},
    },
    "model": {
        "width": 384,
        "embedding": "token",
        "objective": "causal_lm",
        "encoder": {"name": "transformer", "depth": 6, "mixer": {"name": "attention", "heads": 6}, "feedforward": "relu2", "norm": "rms"},
    },
    "stages": [
        {
            "budget": "100 steps",
            "batch": "16 rows",
            "optimizer": {"name": "adamw", "lr": 6e-4, "weight_decay": 0.1},
            "schedule": {"lr": {"name": "cosine", "warmup": "2%"}},
            "hooks": ["clip"],
        }
    ],
    "checkpoint": {"every": "100%", "keep_best": 0},
    "log": {"tensorboard": False},
}


def recipe_file(folder: Path, name: str, steps: int, heads: int, **changes: Any) -> Path:
    import yaml

    tree = RECIPE | {"name": name} | changes
    encoder = RECIPE["model"]["encoder"] | {"mixer": {"name": "attention", "heads": heads}}
    tree["model"] = RECIPE["model"] | {"encoder": encoder}
    tree["data"] = RECIPE["data"] | {
        "train": {
            "name": "jsonl",
            "paths": [str(text_folder() / "fiction" / "train.jsonl.gz"), str(text_folder() / "technical" / "train.jsonl.gz")],
        }
    }
    tree["stages"] = [RECIPE["stages"][0] | {"budget": f"{steps} steps"}]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def run_ingot(recipe: Path, folder: Path) -> dict[str, Any]:
    """One whole process; its wall seconds, and the ledger's step lines."""
    import time

    before = yardstick()
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ingot", "train", str(recipe), "--json"], cwd=folder, capture_output=True, text=True, env=environment()
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = [json.loads(line) for line in (folder / "runs" / recipe.stem / "ledger.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    start = next(line for line in lines if line["kind"] == "start")
    times = sorted(line["step_seconds"] for line in steps[2:])
    return {
        "seconds": seconds,
        "steps": len(steps),
        "median_step_seconds": times[len(times) // 2],
        "flops": steps[-1]["step_flops"],
        "losses": [line["loss"] for line in steps],
        "compile": start["choices"]["compile"],
        "compile_reason": start["choices"]["compile_reason"],
        "parameters": start["parameters"],
        "rate": max(before, start["machine"]["matmul_flops_per_second"], yardstick()),
    }


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src")}


def dump_rows(recipe: Path, folder: Path, steps: int) -> Path:
    """The rows of the run in order, for the peer; prepares the store, so that no timed run does."""
    import numpy as np

    import ingot

    os.chdir(folder)
    run = ingot.build(ingot.load_recipe(recipe), runs=folder / "runs")
    path = folder / "rows.npy"
    np.save(path, run.data_of(0).train.batch(0, steps * 16)["tokens"].astype(np.uint16))
    return path


def run_peer(rows: Path, steps: int, heads: int) -> dict[str, Any]:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "peer_trainer.py"),
        "--rows",
        str(rows),
        "--steps",
        str(steps),
        "--heads",
        str(heads),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=AS_FOUND)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def yardstick() -> float:
    """FLOP/s of the best of ten products, all of them made; a run's own measurement ends sooner where they agree."""
    import torch

    from ingot.ledger.machine import MEASUREMENTS, ROWS, WIDTH, _seconds

    left, right = (torch.full(shape, 0.5, dtype=torch.bfloat16) for shape in ((ROWS, WIDTH), (WIDTH, WIDTH)))
    return 2.0 * ROWS * WIDTH * WIDTH / min(_seconds(left, right) for _ in range(MEASUREMENTS + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--heads", type=int, default=6, help="of both; 6 heads of 64 features, or 3 of 128")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = dump_rows(recipe_file(folder, "rows", options.steps, options.heads), folder, options.steps)
        ours, compiled, theirs = [], [], []
        for number in range(options.rounds):
            ours.append(run_ingot(recipe_file(folder, f"bf16_{number}", options.steps, options.heads), folder))
            theirs.append(run_peer(rows, options.steps, options.heads))
            compiled.append(run_ingot(recipe_file(folder, f"compiled_{number}", options.steps, options.heads, compile=True), folder))
        reference = run_ingot(recipe_file(folder, "fp32", options.steps, options.heads, precision="fp32"), folder)
    best = max(item["rate"] for item in ours + compiled)
    tail = max(1, options.steps // 20)

    def last(run: dict[str, Any]) -> float:
        return sum(run["losses"][-tail:]) / tail

    def share(runs: list[dict[str, Any]], rate: float | None = None) -> dict[str, Any]:
        return spread([item["flops"] / item["median_step_seconds"] / (rate or item["rate"]) for item in runs])

    def brief(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in item.items() if k != "losses"} for item in runs]

    write(
        named("step_speed", f"{options.heads}_heads" if options.heads != 6 else ""),
        {
            "steps": options.steps,
            "heads": options.heads,
            "instructions": os.environ.get("ONEDNN_MAX_CPU_ISA", "all"),
            "matmul_flops_per_second": best,
            "ingot": brief(ours),
            "ingot_compiled": brief(compiled),
            "trainer": brief(theirs),
            "share_of_matmul_rate": share(ours),
            "share_of_matmul_rate_compiled": share(compiled),
            "share_of_best_rate": share(ours, best),
            "share_of_best_rate_compiled": share(compiled, best),
            "loss_bf16": last(ours[0]),
            "loss_fp32": last(reference),
            "loss_relative_difference": abs(last(ours[0]) - last(reference)) / last(reference),
            "ratio_of_whole_processes": spread([peer["seconds"] / mine["seconds"] for mine, peer in zip(ours, theirs, strict=True)]),
            "ratio_of_whole_processes_compiled": spread([p["seconds"] / mine["seconds"] for mine, p in zip(compiled, theirs, strict=True)]),
            "ratio_of_median_steps": spread(
                [peer["median_step_seconds"] / mine["median_step_seconds"] for mine, peer in zip(ours, theirs, strict=True)]
            ),
        },
    )


if __name__ == "__main__":
    main()
