"""Twenty SIGKILLs, five of them inside a checkpoint write, for AdamW and Muon, with token and step budgets: bitwise equal or not.

    python benchmarks/resume.py [--kills 15] [--inside-save 5]

Accumulation of three micro-batches, a mixture of two sources, beyond one epoch. Every kill strikes a process that has made at least one
step since it resumed; its count stands beside it. Fails when fewer kills struck than asked, or when a case stays within one epoch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from _machine import write
from step_speed import environment

RECIPE = {
    "precision": "fp32",
    "compile": False,
    "micro_rows": 3,
    "data": {
        "train": {
            "name": "mixture",
            "weights": {"json": 0.7, "tomllib": 0.3},
            "sources": {name: {"name": "python_library", "packages": [name]} for name in ("json", "tomllib")},
        },
        "holdout": 0.2,
        "tokenizer": {"name": "bpe", "vocabulary": 512},
        "sequence": 64,
    },
    "model": {
        "width": 32,
        "embedding": "token",
        "objective": "causal_lm",
        "encoder": {
            "name": "transformer",
            "depth": 2,
            "mixer": {"name": "attention", "heads": 2},
            "feedforward": "relu2",
            "norm": "rms",
            "dropout": 0.1,
        },
    },
    "evaluate": {"every": "50%", "rows": 8},
    "checkpoint": {"every": "7 steps", "keep_last": 2},
    "log": {"tensorboard": False},
}
CASES = {
    "adamw_steps": {
        "budget": "160 steps",
        "batch": "8 rows",
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "schedule": {"lr": "cosine"},
        "hooks": ["clip"],
    },
    "muon_tokens": {
        "budget": "80k tokens",
        "batch": "8 rows",
        "optimizer": {"name": "muon", "lr": 1e-2, "rest": {"name": "adamw", "lr": 3e-3}},
        "schedule": {"lr": {"name": "warmup_stable_decay", "decay": "20%"}},
        "hooks": ["clip", "ema"],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--inside-save", type=int, default=5)
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        for case, stage in CASES.items():
            path = Path(name) / f"{case}.yaml"
            path.write_text(yaml.safe_dump({"name": case, **RECIPE, "stages": [stage]}, sort_keys=False))
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "ingot",
                    "verify-resume",
                    str(path),
                    "--full",
                    "--kills",
                    str(options.kills),
                    "--inside-save",
                    str(options.inside_save),
                    "--json",
                ],
                cwd=name,
                capture_output=True,
                text=True,
                env=environment(),
            )
            if not done.stdout.strip():
                raise SystemExit(done.stderr)
            found = results[case] = json.loads(done.stdout)
            if "errors" in found or len(found["kills"]) < options.kills + options.inside_save or found["epochs"] <= 1:
                raise SystemExit(f"{case} shows too little:\n{done.stdout}{done.stderr}")
            found["recipe"] = path.name
    kills = [kill for item in results.values() for kill in item["kills"]]
    write(
        "resume",
        {
            "equal": all(item["equal"] for item in results.values()),
            "kills": len(kills),
            "inside_save": sum(kill["inside_save"] for kill in kills),
            "fewest_steps_before_a_kill": min(kill["steps_this_attempt"] for kill in kills),
            "cases": results,
        },
    )


if __name__ == "__main__":
    main()
