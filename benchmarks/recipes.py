"""Train the tiny twin of every recipe, one after another, each in a working directory of its own. By hand; exit status 1 where one fails.

    python benchmarks/recipes.py [--only optim/] [--limit 60]

Tells seconds, steps, and the loss at the first and at the last step. limit: seconds after which one is given up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def trained(path: Path, limit: float) -> tuple[bool, str]:
    """Whether it ended well, and what there is to say."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ingot", "train", str(path), "--tiny"]
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return False, f"not done after {limit:.0f} s"
        if done.returncode:
            return False, (done.stderr or done.stdout).strip().splitlines()[-1][:200]
        ledger = next(Path(folder).glob("runs/*/ledger.jsonl"))
        losses = [line["loss"] for line in map(json.loads, ledger.read_text().splitlines()) if line["kind"] == "step"]
        return True, f"{len(losses):3} steps   loss {losses[0]:.3f} -> {losses[-1]:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="recipes whose path under recipes/ begins so")
    parser.add_argument("--limit", type=float, default=120.0)
    arguments = parser.parse_args()
    failed = 0
    for path in sorted((ROOT / "recipes").rglob("*.yaml")):
        name = str(path.relative_to(ROOT / "recipes"))
        if name.startswith(arguments.only):
            began = time.perf_counter()
            well, words = trained(path, arguments.limit)
            failed += not well
            print(f"{name:<40} {time.perf_counter() - began:5.1f} s   {'' if well else 'FAILS: '}{words}", flush=True)
    print(f"{failed} fail")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
