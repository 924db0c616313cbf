"""What every benchmark writes beside its figures: the machine, the versions, the commit; and where results go."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from ingot.core.waiting import wait_briefly  # noqa: E402

AS_FOUND = dict(os.environ)  # in which peers run: how their threads wait is theirs to choose
wait_briefly(os.environ)  # as the command line does


def named(*parts: str) -> str:
    """A result's file: its name, and what sets its machine apart: a limited instruction set, or a tile unit for products (AMX)."""
    limit, cpu = os.environ.get("ONEDNN_MAX_CPU_ISA", "").lower(), Path("/proc/cpuinfo")
    tiles = not limit and cpu.exists() and "amx_bf16" in cpu.read_text(encoding="utf-8")
    return "_".join([*(part for part in parts if part), *([limit] if limit else []), *(["amx"] if tiles else [])])


def facts() -> dict[str, Any]:
    """Machine, versions, commit and time of this run."""
    from ingot.build.session import commit
    from ingot.ledger.machine import describe

    return {"machine": describe(), "commit": commit(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def write(name: str, results: dict[str, Any]) -> Path:
    """Write benchmarks/results/<name>.json and print it."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(facts() | results, indent=2, default=str) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2, default=str))
    print(f"written: {path.relative_to(ROOT)}")
    return path


def spread(values: list[float]) -> dict[str, float]:
    """Median with the smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def paired(differences: list[float]) -> dict[str, Any]:
    """Mean of paired differences with its 95 % interval (Student's t over the pairs), and the differences."""
    from scipy import stats

    mean, count = statistics.mean(differences), len(differences)
    half = float(stats.t.ppf(0.975, count - 1)) * statistics.stdev(differences) / count**0.5 if count > 1 else float("nan")
    return {"mean": mean, "low": mean - half, "high": mean + half, "pairs": differences}


def text_folder() -> Path:
    """The folder of real texts (INGOT_TEST_DATA, or ../shared/data beside the checkout)."""
    import os

    for folder in (os.environ.get("INGOT_TEST_DATA"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / "text").is_dir():
            return Path(folder) / "text"
    raise SystemExit("set INGOT_TEST_DATA to the folder of real data sets")
