"""A trial of a program that is not Ingot's: it is told what to spend, and says what it spent and how well it does.

The protocol, documented in docs/race.md: arguments are those of the race file; what the trial asks for comes in the environment
(INGOT_ARM_*); the program prints JSON lines. Wall-clock, processor time and peak memory are measured here, whatever the program says of
them; tokens and FLOPs are its word.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from ..core.amounts import size
from ..core.errors import UserError
from ..core.quantities import parse_quantity
from .clock import processor_seconds
from .curves import COSTS
from .metric import metric_name, metric_of, unusable
from .trials import write_whole

PROTOCOL = 1
COUNTS = ("tokens", "flops", "rows", "step")
SAMPLED = 0.1  # seconds between two looks at the program's memory


def run_command(folder: Path, trial: dict[str, Any], threads: int) -> None:
    """Run the program to its end and write result.json. Raises UserError when it does not speak the protocol."""
    what = trial["what"]
    place = folder / "run"
    place.mkdir(exist_ok=True)
    command = shlex.split(what["command"])
    began, before = time.monotonic(), processor_seconds()
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
    if status == -signal.SIGTERM:
        raise UserError(f"the command of {trial['arm']} was asked to end (signal {-status})")
    if not any("evaluation" in line for line in lines) and status == 0:
        raise UserError(f"the command of {trial['arm']} printed no evaluation: see docs/race.md for the protocol")
    result = told(lines, metric=trial["metric"], seconds=seconds, peak=peak, processor=processor_seconds() - before)
    failure = ended_badly(status, peak)
    failure = failure or unusable(result["final"], result["results"], result["metric"])
    write_whole(folder / "result.json", result | {"status": "failed" if failure else "done", "reason": failure})


def ended_badly(status: int, peak: int) -> str:
    """What an exit status says of a failed program; nothing of one that did well."""
    if status == -signal.SIGKILL:
        # When the race itself is killed, its trials go with it and write no result: this came from elsewhere, mostly for want of memory.
        return f"the program was killed (SIGKILL) while it held {size(peak)}, as happens when memory runs out"
    return f"the program ended with status {status}" if status else ""


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
    """Every JSON object the program prints, with the time it came at, and the most memory it was seen to hold.

    Memory is looked at ten times a second, whether the program prints or not.
    """
    lines: list[dict[str, Any]] = []
    peaks, ended = [0], threading.Event()

    def watch() -> None:
        while True:
            peaks[0] = max(peaks[0], memory_of(process.pid))
            if ended.wait(SAMPLED):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert process.stdout is not None
    try:
        for text in process.stdout:
            at = time.monotonic() - began
            try:
                value = json.loads(text)
            except ValueError:
                print(text, end="")  # to log.txt
                continue
            if isinstance(value, dict):
                lines.append(value | {"at": at})
        process.wait()
    finally:
        ended.set()
        watcher.join()
    return lines, peaks[0]


def memory_of(pid: int) -> int:
    """Resident bytes of a process and its children, or the most that the process itself has held so far, where the kernel keeps that; 0
    when it is gone."""
    try:
        process = psutil.Process(pid)
        now = sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])
    except psutil.Error:
        return 0
    with contextlib.suppress(OSError):
        peak = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
        now = max(now, 1024 * int(peak[1]) if peak else 0)
    return now


def told(lines: list[dict[str, Any]], *, metric: str, seconds: float, peak: int, processor: float | None = None) -> dict[str, Any]:
    """The program's lines as a trial's result. seconds: on the clock of the race, which counts whatever the program says of its own."""
    curve: dict[str, list[Any]] = {name: [] for name in ("step", *COSTS, "value")}
    known: dict[str, float] = dict.fromkeys(COUNTS, 0.0)
    evaluations: list[dict[str, Any]] = []
    for line in lines:
        known |= {name: float(line[name]) for name in COUNTS if isinstance(line.get(name), int | float)}
        if isinstance(line.get("evaluation"), dict):
            evaluations.append({name: found for name, found in line["evaluation"].items() if isinstance(found, dict)})
            place = known | {"seconds": line["at"], "reference_seconds": None, "value": metric_of(evaluations[-1], metric)}
            for name in curve:
                curve[name].append(place.get(name))
    results = evaluations[-1] if evaluations else {}
    spent = known | {"seconds": seconds, "cpu_seconds": processor, "reference_seconds": None}
    return {
        "final": metric_of(results, metric) if results else None,
        "metric": metric_name(results, metric) if results else metric,
        "results": results,
        "evaluations": evaluations,
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
    """The baseline's rows for programs: train.npy in the order of the seed, validation_<source>.npy, and what they are in data.json.

    Raises UserError for rows that are not of tokens: the protocol has no file for them.
    """
    import numpy as np

    from .recipe_arm import open_trial

    os.chdir(trial["cwd"])
    run = open_trial(Path("nowhere"), trial["what"]["recipe"])
    target = folder / "rows"
    data = run.data_of(0)
    fields = sorted(data.train.fields())
    if "tokens" not in fields:
        raise UserError(f"a command is given rows of tokens, and the baseline's rows hold {', '.join(fields)}")
    target.mkdir(exist_ok=True)
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
