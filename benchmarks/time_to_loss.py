"""Time to a loss: the shipped recipe against transformers' Trainer tuned over learning rates and batch sizes, same data and tokenizer.

    python benchmarks/time_to_loss.py [--minutes 10] [--seeds 3] [--tune-minutes 10]

The peer (GPT-2 of the same parameters within 2 %) is tuned on validation part A; figures are bits per byte on part B, which
neither side's tuning sees. Then Ingot's recipe is run with shorter and shorter budgets until it no longer reaches the peer's
median; the ratio of process times is the figure. Start-up and compilation count on both sides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _machine import ROOT, text_folder, write
from step_speed import environment

LEARNING_RATES = (3e-4, 1e-3, 3e-3)
BATCHES = (4, 8, 16)


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
    return [f"name={name}", f"data.train={{name: jsonl, paths: [{', '.join(files)}]}}", f"data.validation={{name: jsonl, paths: [{', '.join(held)}]}}", "data.holdout=0"]


def peer(folder: Path, parts: dict[str, Any], shape: list[str], *, lr: float, batch: int, seconds: float, seed: int, part: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks/peer_trainer.py"), "--rows", str(folder / "rows.npy"), "--lr", str(lr), "--batch", str(batch), "--seconds", str(seconds),
               "--seed", str(seed), "--vocabulary", str(parts["vocabulary"]), "--validation", str(folder / f"{part}.npy"), "--validation-bytes", str(parts[part]), *shape]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"lr": lr, "batch": batch, "seed": seed}


def ingot_run(folder: Path, seconds: float, seed: int, parts: dict[str, Any]) -> dict[str, Any]:
    """A whole process with only the budget changed; then, untimed, bits per byte on part B."""
    import numpy as np
    import torch

    name = f"ingot_{seconds:.0f}_{seed}"
    began = time.perf_counter()
    command = [sys.executable, "-m", "ingot", "train", str(ROOT / "recipes/text/fast_small.yaml"), *overrides(name), f"seed={seed}", f"stages.0.budget={seconds:.0f} s", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    from ingot.build.run import open_run
    from ingot.ops.cross_entropy import token_nll

    run = open_run(folder / "runs" / name)
    rows = torch.from_numpy(np.load(folder / "b.npy").astype(np.int64))
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), 16):
            batch = run.model.objective.prepare({"tokens": rows[start : start + 16], "rows": torch.arange(16)[: len(rows[start : start + 16])], "key": run.key})
            total += float(run.model(batch)["cross_entropy"].sum())
    summary = json.loads(done.stdout)
    del token_nll
    return {"seconds": wall, "budget": seconds, "seed": seed, "bits_per_byte": total / np.log(2) / parts["b"], "tokens": summary["tokens"], "steps": summary["step"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--tune-minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=float, nargs="+", default=[200, 150, 120, 90])
    parser.add_argument("--shape", nargs="+", default=["--layers", "6", "--width", "256", "--heads", "4"])
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    parts = setting(folder)
    tuned = [peer(folder, parts, options.shape, lr=lr, batch=batch, seconds=60 * options.tune_minutes, seed=0, part="a") for lr in LEARNING_RATES for batch in BATCHES]
    best = min(tuned, key=lambda item: item["bits_per_byte"])
    peers = [peer(folder, parts, options.shape, lr=best["lr"], batch=best["batch"], seconds=60 * options.minutes, seed=seed, part="b") for seed in range(options.seeds)]
    target = statistics.median(item["bits_per_byte"] for item in peers)
    runs, reached = [], None
    for budget in options.budgets:
        found = [ingot_run(folder, budget, seed, parts) for seed in range(options.seeds)]
        runs += found
        if statistics.median(item["bits_per_byte"] for item in found) > target:
            break
        reached = statistics.median(item["seconds"] for item in found)
    peer_seconds = statistics.median(item["seconds"] for item in peers)
    rate = statistics.median(item["tokens"] / item["seconds"] for item in runs) / statistics.median(item["tokens"] / item["seconds"] for item in peers)
    write("time_to_loss", {"parameters": {"ingot": parts["parameters"], "peer": peers[0]["parameters"]}, "tuning": tuned, "peer": peers, "ingot": runs, "target_bits_per_byte": target,
                           "seconds_to_target": reached, "peer_seconds": peer_seconds, "ratio": peer_seconds / reached if reached else None, "ratio_from_rate": rate,
                           "ratio_from_fewer_tokens": peer_seconds / reached / rate if reached else None})  # fmt: skip


if __name__ == "__main__":
    main()
