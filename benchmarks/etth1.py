"""Forecasts of ETTh1 by the patch transformer and by the mixer, from their recipes: the paper's split, horizon 96, look-back 512.

    python benchmarks/etth1.py [--seeds 0 1 2] [--runs FOLDER] [override ...]

Writes test and validation errors at the end, seconds of the run with start and evaluations, parameters. The published test
errors beside them: DLinear 0.375 (arXiv:2205.13504), PatchTST 0.370 (arXiv:2211.14730).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _machine import ROOT, text_folder, write

import ingot

RECIPES = ROOT / "recipes" / "series"
MODELS = ("patchtst_etth1", "ttm_etth1")
GOAL = 0.385


def measured(name: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Train one recipe; errors of its last evaluation. What was found is kept beside the runs and read the next time."""
    kept = Path(f"{name}_{seed}.json")
    if kept.exists() and (known := dict(json.loads(kept.read_text())))["overrides"] == overrides:
        return known
    began = time.perf_counter()
    run = ingot.build(ingot.load_recipe(str(RECIPES / f"{name}.yaml"), [f"name={name}_{seed}", f"seed={seed}", *overrides]))
    run.train()
    lines = [json.loads(line) for line in (run.folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line["results"] for line in lines if line["kind"] == "evaluation"][-1]
    found: dict[str, Any] = {"overrides": overrides}
    found |= {f"{part}_{metric}": last[part][f"forecast.{metric}"] for part in ("validation", "test") for metric in ("mse", "mae")}
    found |= {
        "seconds": time.perf_counter() - began,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "windows": last["test"]["forecast.windows"],
    }
    kept.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, help="where to keep the runs; a finished one is only read")
    parser.add_argument("overrides", nargs="*", help="changes of both recipes, such as stages.0.budget='1 epochs'")
    given = parser.parse_args()
    work = given.runs or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    if not Path("timeseries").exists():
        Path("timeseries").symlink_to(text_folder().parent / "timeseries")
    report = {}
    for name in MODELS:
        runs = {seed: measured(name, seed, given.overrides) for seed in given.seeds}
        mean = statistics.mean(item["test_mse"] for item in runs.values())
        report[name] = {
            "test_mse": mean,
            "goal": GOAL,
            "reached": mean <= GOAL,
            "published": {"DLinear": 0.375, "PatchTST": 0.370},
            "seeds": runs,
        }
    write("etth1", {"models": report})


if __name__ == "__main__":
    main()
