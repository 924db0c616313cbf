"""A trial of a program that is not Ingot's: it is told what to spend, and says what it spent and how well it does.

The protocol, documented in docs/race.md: arguments are those of the race file; what the trial asks for comes in the environment
(INGOT_ARM_*); the program prints JSON lines. Wall-clock and peak memory are measured here, tokens and FLOPs are the program's word.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from ..core.errors import UserError
from ..core.quantities import parse_quantity
from .curves import COSTS, metric_name, metric_of
from .trials import write_whole

PROTOCOL = 1
COUNTS = ("tokens", "flops", "seconds", "rows", "step")


def run_command(folder: Path, trial: dict[str, Any], threads: int) -> None:
    """Run the program to its end and write result.json. Raises UserError when it does not speak the protocol."""
    what = trial["what"]
    place = folder / "run"
    place.mkdir(exist_ok=True)
    command = shlex.split(what["command"])
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            cwd=trial["cwd"],
            env=os.environ | asked(what, place, trial["cwd"]),
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise UserError(f"the command of {trial['arm']} cannot be run: {error.strerror or error}") from None
    lines, peak = follow(process, began)
    seconds = time.monotonic() - began
    status: int = process.wait()
    if not any("evaluation" in line for line in lines) and status == 0:
        raise UserError(f"the command of {trial['arm']} printed no evaluation: see docs/race.md for the protocol")
    result = told(lines, metric=trial["metric"], seconds=seconds, peak=peak)
    failure = (
        f"the program ended with status {status}"
        if status
        else "the evaluation is not finite"
        if result["final"] is not None and not math.isfinite(result["final"])
        else ""
    )
    if status < 0 and -status in (signal.SIGKILL, signal.SIGTERM):
        raise UserError(f"the command of {trial['arm']} was killed by signal {-status}")
    write_whole(folder / "result.json", result | {"status": "failed" if failure else "done", "reason": failure})


def asked(what: dict[str, Any], place: Path, cwd: str) -> dict[str, str]:
    """The environment that tells the program what to do."""
    budget = parse_quantity(what["budget"])
    values = {
        "protocol": PROTOCOL,
        "seed": what["seed"],
        "factor": f"{what['factor']:.12g}",
        "budget": f"{budget.value:.12g}",
        "unit": budget.unit,
        "folder": place.resolve(),
        "evaluations": what["evaluations"],
        "data": Path(cwd, what["data"]).resolve(),
    }
    return {f"INGOT_ARM_{name.upper()}": str(value) for name, value in values.items()}


def follow(process: subprocess.Popen[str], began: float) -> tuple[list[dict[str, Any]], int]:
    """Every JSON object the program prints, with the time it came at, and the largest memory it held."""
    lines, peak = [], 0
    assert process.stdout is not None
    for text in process.stdout:
        peak = max(peak, memory_of(process.pid))
        try:
            value = json.loads(text)
        except ValueError:
            print(text, end="")  # to log.txt
            continue
        if isinstance(value, dict):
            lines.append(value | {"at": time.monotonic() - began})
    return lines, peak


def memory_of(pid: int) -> int:
    """Resident bytes of a process and its children; 0 when it is gone."""
    try:
        process = psutil.Process(pid)
        return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])
    except psutil.Error:
        return 0


def told(lines: list[dict[str, Any]], *, metric: str, seconds: float, peak: int) -> dict[str, Any]:
    """The program's lines as a trial's result."""
    curve: dict[str, list[Any]] = {name: [] for name in ("step", *COSTS, "value")}
    known: dict[str, float] = dict.fromkeys(COUNTS, 0.0)
    results: dict[str, Any] = {}
    for line in lines:
        known |= {name: float(line[name]) for name in COUNTS if isinstance(line.get(name), int | float)}
        if isinstance(line.get("evaluation"), dict):
            results = line["evaluation"]
            place = known | {"seconds": known["seconds"] or line["at"], "reference_seconds": None, "value": metric_of(results, metric)}
            for name in curve:
                curve[name].append(place.get(name))
    spent = known | {"seconds": known["seconds"] or seconds, "reference_seconds": None}
    return {
        "final": metric_of(results, metric) if results else None,
        "metric": metric_name(results, metric) if results else metric,
        "results": results,
        "curve": curve,
        "training": {},
        "spent": spent,
        "stages": [],
        "memory": {"process": peak} if peak else {},
        "peak_memory": peak,
        "time": {"program": seconds},
        "flops": {},
        "parameters": None,
        "machine": None,
        "choices": None,
        "commit": None,
        "restarts": 0,
        "declared": True,
    }


def export_rows(folder: Path, trial: dict[str, Any], threads: int) -> None:
    """The baseline's rows for programs: train.npy in the order of the seed, validation_<source>.npy, and what they are in data.json."""
    import numpy as np

    from .recipe_arm import open_trial

    os.chdir(trial["cwd"])
    run = open_trial(Path("nowhere"), trial["what"]["recipe"])
    target = folder / "rows"
    target.mkdir(exist_ok=True)
    data = run.data_of(0)
    kind = np.uint16 if (run.vocabulary or 0) <= 1 << 16 else np.int32
    count = min(trial["rows"], data.train.rows_per_epoch)
    np.save(target / "train.npy", data.train.batch(0, count)["tokens"].astype(kind))
    sizes = run.tokenizer.token_bytes()
    about: dict[str, Any] = {"vocabulary": run.vocabulary, "sequence": run.section.data.sequence, "rows": count, "validation": {}}
    for name, stream in data.validation.items():
        tokens = stream.batch(0, min(run.section.evaluate.rows, stream.rows_per_epoch))["tokens"]
        np.save(target / f"validation_{name}.npy", tokens.astype(kind))
        about["validation"][name] = {"rows": len(tokens), "bytes": float(sizes[tokens[:, 1:]].sum())}
    write_whole(target / "data.json", about)
