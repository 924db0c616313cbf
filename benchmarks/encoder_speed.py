"""Images and sound: samples a second beside transformers' Trainer, and beside the same run on batches that lie ready in memory.

    [ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16] python benchmarks/encoder_speed.py [--steps 30] [--rounds 3] [--pairs 200] [--kinds vit,hubert] [--precision bf16]

trainer     a ViT (supervised) and a HuBERT (masked units) of the same parameters within 2 %, batch and length, bf16 with fp32 master weights
            on the CPU, in whole processes that alternate. Ingot decodes and augments real files meanwhile; the Trainer's rows lie in
            memory. Median step, and whole processes; those of HuBERT hold the k-means that finds its units, which the Trainer is spared.
cached      one process, steps on the loader's windows and on kept ones in turn; decoding and augmentation on.

A kind's figures replace its own in benchmarks/results/encoder_speed.json (encoder_speed_fp32.json for fp32, and files of their own for a
processor with AMX and for a limited instruction set: see step_speed.py), each with machine and commit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _cached import of_cached
from _machine import AS_FOUND, ROOT, facts, named, spread, text_folder, write
from step_speed import environment

# Recipe, overrides, and the same shape in the peer's words.
KINDS: dict[str, tuple[str, list[str], list[str]]] = {
    "vit": (
        "vision/vit_tiny.yaml",
        [
            "model.width=384",
            "model.encoder.mixer.heads=6",
            "model.embedding={name: patch, patch: 4, position: learned, class_token: true}",
            "model.objective.pooling=first",
            "stages.0.batch=32 images",
            "micro_rows=32",
        ],
        ["--classes", "10", "--batch", "32"],
    ),
    "hubert": (
        "speech/hubert_tiny.yaml",
        [
            "model.width=384",
            "model.encoder.mixer.heads=6",
            "model.encoder.depth=6",
            "model.embedding={name: waveform, channels: 512, kernels: [10, 3, 3, 3, 3, 2, 2], strides: [5, 2, 2, 2, 2, 2, 2], neighbors: 32}",
            "data.train.rate=16000",
            "data.validation.rate=16000",
            "stages=[{budget: 1 steps, batch: 16 clips, annotate: {name: kmeans, clusters: 50, frames: 20000}, "
            "optimizer: {name: adamw, lr: 5e-4, betas: [0.9, 0.98], weight_decay: 0.01}, hooks: [clip]}]",  # its first round alone
            "micro_rows=16",
        ],
        ["--classes", "50", "--batch", "16"],
    ),
}
COMMON = [
    "evaluate.also=[]",
    "evaluate.every=100%",
    "evaluate.rows=32",
    "checkpoint.every=100%",
    "checkpoint.keep_best=0",
    "log.tensorboard=false",
    "anomaly.policy=log",
]


def overrides(kind: str, name: str, steps: int, precision: str) -> list[str]:
    """What makes the recipe of a kind the run that is measured."""
    return [*COMMON, *KINDS[kind][1], f"name={name}", f"stages.0.budget={steps} steps", f"precision={precision}"]


def ours(kind: str, folder: Path, name: str, steps: int, precision: str) -> dict[str, Any]:
    """A whole process."""
    path = str(ROOT / "recipes" / KINDS[kind][0])
    command = [sys.executable, "-m", "ingot", "train", path, *overrides(kind, name, steps, precision), "--json"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    lines = [json.loads(line) for line in (folder / "runs" / name / "ledger.jsonl").read_text().splitlines()]
    times = [line["step_seconds"] for line in lines if line["kind"] == "step" and line["stage"] == 0]
    start = next(line for line in lines if line["kind"] == "start")
    return {
        "seconds": seconds,
        "steps": len(times),
        "median_step_seconds": statistics.median(times[2:]),
        "parameters": start["parameters"],
        "compile": start["choices"]["compile"],
        "compile_reason": start["choices"]["compile_reason"],
        "data_seconds": sum(line["phases"].get("data", 0.0) for line in lines if line["kind"] == "step"),
    }


def theirs(kind: str, steps: int, precision: str) -> dict[str, Any]:
    peer = str(ROOT / "benchmarks/peer_encoders.py")
    done = subprocess.run(
        [sys.executable, peer, kind, "--steps", str(steps), "--precision", precision, *KINDS[kind][2]],
        capture_output=True,
        text=True,
        env=AS_FOUND,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    import ingot
    from ingot.ops.memory import keep_freed_memory

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=200, help="of steps, one on the loader's windows and one on kept ones")
    parser.add_argument("--kinds", default="vit,hubert")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="fp32: on a processor without bf16")
    options = parser.parse_args()
    keep_freed_memory()  # as runs do
    name = named("encoder_speed", "fp32" if options.precision == "fp32" else "")
    earlier = ROOT / "benchmarks/results" / f"{name}.json"
    results: dict[str, Any] = json.loads(earlier.read_text())["kinds"] if earlier.exists() else {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for part in ("images", "speech"):
            (folder / part).symlink_to(text_folder().parent / part)
        (folder / "cifar10").symlink_to(text_folder().parent / "images" / "cifar10")
        os.chdir(folder)
        for kind in options.kinds.split(","):
            path = ROOT / "recipes" / KINDS[kind][0]
            recipe = ingot.load_recipe(path, overrides(kind, f"{kind}_cached", 1000, options.precision))
            cached = of_cached(ingot.build(recipe, runs=folder / "runs"), options.pairs)
            mine, peer = [], []
            for number in range(options.rounds):
                mine.append(ours(kind, folder, f"{kind}_{number}", options.steps, options.precision))
                peer.append(theirs(kind, options.steps, options.precision))
            pairs = list(zip(mine, peer, strict=True))
            results[kind] = facts() | {
                "steps": options.steps,
                "of_cached": cached,
                "ingot": mine,
                "trainer": peer,
                "ratio_of_median_steps": spread([b["median_step_seconds"] / a["median_step_seconds"] for a, b in pairs]),
                "ratio_of_whole_processes": spread([b["seconds"] / a["seconds"] for a, b in pairs]),
            }
            print(kind, json.dumps(results[kind], indent=1), flush=True)
    write(name, {"kinds": results})


if __name__ == "__main__":
    main()
